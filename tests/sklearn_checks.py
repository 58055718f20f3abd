"""Which of scikit-learn's checks several test files run."""

# All checks take a second or two; these are quick, and about what a parameter can break.
QUICK = {
    "check_dict_unchanged",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
}
# These too; the others are about what X is and holds, which is read before a parameter matters.
ABOUT_PARAMETERS = QUICK | {
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_non_transformer_estimators_n_iter",
    "check_outliers_fit_predict",
    "check_outliers_train",
    "check_sample_weight_equivalence_on_dense_data",
    "check_transformer_general",
    "check_transformer_n_iter",
}
