/* What an autoregressive decoder adds to native.c, which includes this: the masked network of a row's cells, and
 * mixtures of Student's t's in each cell.
 */

/* --- Mixtures ----------------------------------------------------------------------------------------------------- */

/* Sums over the rows and what all rows read are kept member after member, each so many columns wide. */
static whole member_width(const Segment *s) { return (s->n_columns + 15) / 16 * 16; }

/* As `open_columns`. Free parameters: log-scales, shapes and shifts of the locations, each member after member. */
static void open_mixture(const Segment *s, const Columns *c, const float *free) {
    whole n = s->n_columns, n_cells = s->n_members * n, width = member_width(s);
    for (whole i = 0; i < n_cells; i++) {
        whole at = i / n * width + i % n;
        double df = 2.0 + softplus(free[n_cells + i]), unused;
        double norm = log_gamma(0.5 * (df + 1.0), &unused) - log_gamma(0.5 * df, &unused);
        norm -= 0.5 * log(3.14159265358979323846 * df);
        c->scale[at] = free[i];
        if (s->family == MIXTURE_CONSTANT) {
            double variance = exp(2.0 * free[i]) + s->floor_squared;
            c->scale[at] = (float)variance;
            norm -= 0.5 * log(variance);
        }
        c->shape[at] = (float)df, c->norm[at] = (float)norm, c->shift[at] = free[2 * n_cells + i];
        c->tail[at] = c->pull[at] = c->d_scale[at] = c->d_shift[at] = c->count[at] = 0.0f;
    }
}

/* As `close_columns`; the loss is complete already. Each member has the weights that its responsibilities are. */
static void close_mixture(const Segment *s, const Columns *c, const float *free, float *d_free) {
    whole n = s->n_columns, n_cells = s->n_members * n, width = member_width(s);
    for (whole i = 0; i < n_cells; i++) {
        whole at = i / n * width + i % n;
        double above = exp(2.0 * free[i]), raw = free[n_cells + i], df = 2.0 + softplus(raw), d_low, d_high;
        double count = c->count[at], pull = c->pull[at];
        log_gamma(0.5 * df, &d_low), log_gamma(0.5 * (df + 1.0), &d_high);
        double d_df = 0.5 * (c->tail[at] + count * (d_low - d_high) + (count - pull) / df);
        d_free[i] = s->family == MIXTURE_CONSTANT ? (float)((count - pull) * above / (above + s->floor_squared))
                                                  : c->d_scale[at];
        d_free[n_cells + i] = (float)(d_df / (1.0 + exp(-raw)));
        d_free[2 * n_cells + i] = c->d_shift[at];
    }
}

/* What a member's log-density at a cell, with its log-weight, is made of; the derivatives are those of its negative. */
typedef struct {
    vec term, tail, slope, pull, d_log_scale; /* dL/dm, and the residual times that */
    ivec is_inside; /* whether the decoder's part of the log-scale is in its range */
} Member;

/* Of a member whose location is at ``place``; ``at`` is its place in the columns. */
INLINE Member member_of(int dependent, const Segment *s, const Columns *c, whole at, const float *place, vec logit,
                        vec value) {
    Member m;
    vec df = load(c->shape + at), variance = load(c->scale + at), share = all(0.0f);
    m.term = logit + load(c->norm + at);
    if (dependent) {
        vec h = load(place + s->n_members * s->n_columns), above;
        above = exponential(2.0f * (variance + clamp(h, -4.0f, 4.0f)));
        variance = above + (float)s->floor_squared;
        share = above / variance;
        m.is_inside = (h > -4.0f) & (h < 4.0f);
        m.term -= 0.5f * logarithm(variance);
    }
    vec residual = load(place) + load(c->shift + at) - value, square = residual * residual, spread = df * variance;
    vec ratio = square / spread, w = 1.0f + ratio;
    m.tail = logarithm(w) + (ratio - (w - 1.0f)) / w;
    m.term -= 0.5f * (df + 1.0f) * m.tail;
    m.slope = (df + 1.0f) * residual / (square + spread);
    m.pull = residual * m.slope;
    m.d_log_scale = share * (1.0f - m.pull);
    return m;
}

INLINE void add_to(float *place, vec v) { store(place, load(place) + v); }

/* As `column_cells`, of log p = log sum_k e^(term_k) - log sum_k e^(logit_k): the derivative by what a term is made of is
 * that of the member, weighted by its responsibility e^(term_k) / sum_l e^(term_l). */
INLINE double mixture_columns(int dependent, int general, const Segment *s, const Columns *c, whole j, whole n_rows,
                              const Cells *cells, float *y, whole y_row) {
    whole n = s->n_columns, n_cells = s->n_members * n, to_logits = (dependent ? 2 : 1) * n_cells;
    whole width = member_width(s);
    const float *end = cells->x + (n_rows - 1) * cells->row + n;
    ivec mine = first_lanes(n - j);
    vec loss = {0};
    for (whole r = 0; r < n_rows; r++) {
        float *row = y + r * y_row + j;
        vec value = load_before(cells->x + r * cells->row + j, n - j, end), weight = all(1.0f);
        if (general) {
            ivec seen = value == value;
            weight = choose(seen, all(weight_of(cells, r)), all(0.0f));
            value = choose(seen, value, all(0.0f));
        }
        Member members[MAX_MEMBERS];
        /* Logits count from the highest, and terms as well: without that e^ of them may be too large. */
        vec top = all(-INFINITY), top_logit = top, sum = {0}, sum_prior = {0}, prior[MAX_MEMBERS];
        for (whole k = 0; k < s->n_members; k++) top_logit = larger(load(row + to_logits + k * n), top_logit);
        for (whole k = 0; k < s->n_members; k++) {
            vec logit = load(row + to_logits + k * n) - top_logit;
            members[k] = member_of(dependent, s, c, k * width + j, row + k * n, logit, value);
            top = larger(members[k].term, top);
            prior[k] = exponential(logit), sum_prior += prior[k];
        }
        for (whole k = 0; k < s->n_members; k++) {
            members[k].term = exponential(members[k].term - top);
            sum += members[k].term;
        }
        loss += weight * (logarithm(sum_prior) - top - logarithm(sum));
        vec factor = weight / sum, factor_prior = weight / sum_prior;
        for (whole k = 0; k < s->n_members; k++) {
            const Member *m = &members[k];
            float *place = row + k * n;
            whole at = k * width + j;
            vec share = m->term * factor, d = share * m->slope;
            store_masked(place, d, mine);
            store_masked(place + to_logits, prior[k] * factor_prior - share, mine);
            add_to(c->tail + at, share * m->tail), add_to(c->pull + at, share * m->pull);
            add_to(c->count + at, share), add_to(c->d_shift + at, d);
            if (!dependent) continue;
            vec d_log_scale = share * m->d_log_scale;
            store_masked(place + n_cells, choose(m->is_inside, d_log_scale, all(0.0f)), mine);
            add_to(c->d_scale + at, d_log_scale);
        }
    }
    return total(choose(mine, loss, all(0.0f)));
}

static double mixture_cells(const Segment *s, whole general, const Columns *c, whole n_rows, const Cells *cells,
                            float *y, whole y_row) {
    double loss = 0.0;
    for (whole j = 0; j < s->n_columns; j += LANES)
        loss += s->family == MIXTURE_CONSTANT
                    ? mixture_columns(0, (int)general, s, c, j, n_rows, cells, y, y_row)
                    : mixture_columns(1, (int)general, s, c, j, n_rows, cells, y, y_row);
    return loss;
}

/* --- The masked network ------------------------------------------------------------------------------------------- */

/* Part of a network's free parameters, and where it lies in the packed matrices. */
typedef struct {
    whole n_rows, n_columns, to, to_row;
    int is_masked; /* weights are, biases are not */
} Part;

/* The linear path, the weights of each layer, the biases of each hidden one. */
static whole count_parts(const Masked *m) { return m->net.n_hidden ? 2 * m->net.n_hidden + 2 : 1; }

static Part find_part(const Masked *m, whole index) {
    const Network *net = &m->net;
    whole n = net->n_hidden, n_weights = n ? n + 2 : 1, layer = index ? index - 1 : n, first_row = 0;
    Part part = {.is_masked = index < n_weights};
    if (!part.is_masked) {
        layer = index - n_weights, first_row = width_before(net, layer);
        part.n_rows = 1;
    } else if (index == 0) {
        first_row = n ? net->hidden[n - 1] : 0;
        part.n_rows = m->n_inputs;
    } else {
        part.n_rows = layer ? net->units[layer - 1] : m->n_inputs;
    }
    part.n_columns = layer == n ? m->n_outputs : net->units[layer];
    part.to_row = layer == n ? net->n_outputs : net->hidden[layer];
    part.to = net->matrices[layer] + first_row * part.to_row;
    return part;
}

/* Copy a part, multiplied by its mask where it has one. */
static void copy_part(const Part *part, const float *mask, const float *from, whole from_row, float *to, whole to_row) {
    for (whole r = 0; r < part->n_rows; r++, from += from_row, to += to_row) {
        for (whole j = 0; j < part->n_columns; j++) to[j] = mask ? from[j] * mask[j] : from[j];
        if (mask) mask += part->n_columns;
    }
}

/* The masks lie as the weights do. */
static void pack_weights(const Masked *m, const float *free, float *packed) {
    for (whole i = 0, place = 0; i < count_parts(m); i++) {
        Part part = find_part(m, i);
        const float *mask = part.is_masked ? m->masks + place : NULL;
        copy_part(&part, mask, free + place, part.n_columns, packed + part.to, part.to_row);
        place += part.n_rows * part.n_columns;
    }
}

static void unpack_gradient(const Masked *m, const float *packed, float *d_free) {
    for (whole i = 0, place = 0; i < count_parts(m); i++) {
        Part part = find_part(m, i);
        const float *mask = part.is_masked ? m->masks + place : NULL;
        copy_part(&part, mask, packed + part.to, part.to_row, d_free + place, part.n_columns);
        place += part.n_rows * part.n_columns;
    }
}

/* What the network sees of rows of a tile: values of the cells that are shown, zeros for the others, and which these are. */
static void fill_inputs(const Masked *m, const Call *call, whole network, whole first, whole n_rows, float *to,
                        whole to_row) {
    const float *x = call->x.data + network * call->x.network + first * call->x.row;
    const uint8_t *mask = call->mask.data, *shown = call->shown.data;
    whole n_columns = m->n_inputs - m->n_values;
    if (mask) mask += network * call->mask.network + first * call->mask.row;
    if (shown) shown += network * call->shown.network + first * call->shown.row;
    for (whole r = 0; r < n_rows; r++, to += to_row, x += call->x.row) {
        float *hidden = to + m->n_values;
        for (whole j = 0; j < n_columns; j++)
            hidden[j] = (mask && !mask[r * call->mask.row + j]) || (shown && !shown[r * call->shown.row + j]);
        for (whole i = 0; i < m->n_values; i++) {
            float value = x[m->owners[i]];
            float near = value < -FARTHEST ? -FARTHEST : value > FARTHEST ? FARTHEST : value; /* NaN stays */
            float seen = m->levels[i] < 0 ? near : value == (float)m->levels[i];
            to[i] = hidden[m->owners[i]] != 0.0f ? 0.0f : seen;
        }
    }
}

/* Parameters and gradient of one network, as `forward` and `backward` read and write them. */
static Call masked_call(const Masked *m, float *packed) {
    Call call = {.values = packed, .gradient = packed + m->n_packed};
    return call;
}

static void copy_rows(whole n_rows, whole n, const float *from, whole from_row, float *to, whole to_row) {
    for (whole r = 0; r < n_rows; r++) memcpy(to + r * to_row, from + r * from_row, n * sizeof(float));
}

/* Add the network's outputs to the decoder's, of which those behind go into its first layer. */
static void masked_forward(const Masked *m, const Call *call, const Space *s, float *packed, whole network, whole first,
                           whole n_rows, float *y, whole y_row) {
    Call own = masked_call(m, packed);
    fill_inputs(m, call, network, first, n_rows, s->joint + s->n_last, s->joint_row);
    forward(&own, s, 0, first, n_rows, NULL, y, y_row);
}

/* From dL/dY of the columns' outputs to the network's gradient, and to dL/dY of those behind. */
static void masked_backward(const Masked *m, const Space *s, float *packed, whole first, whole n_rows, float *y,
                            whole y_row) {
    Call own = masked_call(m, packed);
    backward(&own, s, 0, first, n_rows, y, y_row, NULL, 0);
    if (m->net.n_hidden)
        copy_rows(n_rows, m->net.units[0], s->slopes[0], m->net.hidden[0] + PAD, y + m->n_outputs, y_row);
}
