const i64 runs = (T + {{ rows - 1 }}) / {{ rows }};
const i64 shares = runs * {{ heads }};
const i64 share = block % shares;
{%- for axis in grid %}
const int {{ axis.name }} = (int)(block % {{ axis.size }});
block /= {{ axis.size }};
{%- endfor %}
const i64 b = block / runs;
{%- if stored %}
const i64 t_begin = block % runs{% if rows > 1 %} * {{ rows }}{% endif %};
const i64 t_end = {% if rows > 1 %}t_begin + {{ rows }} < T ? t_begin + {{ rows }} : T{% else %}t_begin + 1{% endif %};

float* const queries = smem + {{ at.queries }};  // [{{ rows }}, {{ depth }}]
float* const keys = smem + {{ at.keys }};  // [{{ tile }}, {{ depth }}], padded: no two lanes meet in a bank
float* const values = smem + {{ at.values }};  // [{{ tile }}, {{ width }}]
float* const weights = smem + {{ at.weights }};  // [{{ rows }}, {{ tile }}]
float* const tops = smem + {{ at.tops }};  // largest product of each row so far
float* const totals = smem + {{ at.totals }};  // sum of weights relative to it
float* const factors = smem + {{ at.factors }};  // what a new largest product makes of earlier weights
for (int i = tid; i < {{ rows * depth }}; i += {{ threads }}) {
    const int e = i % {{ depth }};
    const i64 t = t_begin + i / {{ depth }};
    queries[i] = t < t_end ? to_f32({{ query.now }}) * {{ scale }} : 0.0f;
}
for (int r = tid; r < {{ rows }}; r += {{ threads }}) {
    tops[r] = -FUSEC_INF;
    totals[r] = 0.0f;
}
float sums[{{ held }}];
#pragma unroll
for (int n = 0; n < {{ held }}; ++n) sums[n] = 0.0f;

// Rows before this run that exist, and the first row that any row of the block sees.
const i64 past = position < {{ window - 1 }} ? position : {{ window - 1 }};
const i64 first = t_begin - {{ window - 1 }} < -past ? -past : t_begin - {{ window - 1 }};
for (i64 begin = first; begin < t_end; begin += {{ tile }}) {
    __syncthreads();
    for (int i = tid; i < {{ tile * depth }}; i += {{ threads }}) {
        const int e = i % {{ depth }};
        const i64 t = begin + i / {{ depth }};
        float x = 0.0f;
        if (t < t_end) x = {% if key.before %}t < 0 ? {{ key.before }} : {% endif %}to_f32({{ key.now }});
        keys[i / {{ depth }} * {{ depth + 1 }} + e] = x;
    }
    for (int i = tid; i < {{ tile * width }}; i += {{ threads }}) {
        const int e = i % {{ width }};
        const i64 t = begin + i / {{ width }};
        float x = 0.0f;
        if (t < t_end) x = {% if value.before %}t < 0 ? {{ value.before }} : {% endif %}to_f32({{ value.now }});
        values[i] = x;
    }
    __syncthreads();
    for (int i = tid; i < {{ rows * tile }}; i += {{ threads }}) {
        const int r = i / {{ tile }};
        const int j = i % {{ tile }};
        const i64 back = t_begin + r - (begin + j);
        float x = -FUSEC_INF;
        if (back >= 0 && back < {{ window }}) {
            x = 0.0f;
            for (int e = 0; e < {{ depth }}; ++e) x += queries[r * {{ depth }} + e] * keys[j * {{ depth + 1 }} + e];
        }
        weights[i] = x;
    }
    __syncthreads();
    for (int r = tid / 32; r < {{ rows }}; r += {{ warps }}) {
        float top = tops[r];
        for (int j = tid % 32; j < {{ tile }}; j += 32) top = fmax32(top, weights[r * {{ tile }} + j]);
        top = warp_max(top);
        float total = 0.0f;
        for (int j = tid % 32; j < {{ tile }}; j += 32) {
            const float x = weights[r * {{ tile }} + j];
            const float weight = x == -FUSEC_INF ? 0.0f : fexp(x - top);
            weights[r * {{ tile }} + j] = weight;
            total += weight;
        }
        total = warp_sum(total);
        if (tid % 32 == 0) {
            factors[r] = totals[r] == 0.0f ? 0.0f : fexp(tops[r] - top);
            totals[r] = totals[r] * factors[r] + total;
            tops[r] = top;
        }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < {{ held }}; ++n) {
        const int i = tid + n * {{ threads }};
        if (i < {{ rows * width }}) {
            const int r = i / {{ width }};
            const i64 t = t_begin + r;
            // Only rows that are seen: what a later one holds must not matter, not even a NaN.
            const i64 low = t - {{ window - 1 }} - begin;
            const i64 high = t + 1 - begin;
            const int j_begin = low > 0 ? (int)(low < {{ tile }} ? low : {{ tile }}) : 0;
            const int j_end = (int)(high < {{ tile }} ? high : {{ tile }});
            float sum = sums[n] * factors[r];
            for (int j = j_begin; j < j_end; ++j) sum += weights[r * {{ tile }} + j] * values[j * {{ width }} + i % {{ width }}];
            sums[n] = sum;
        }
    }
}
#pragma unroll
for (int n = 0; n < {{ held }}; ++n) {
    const int i = tid + n * {{ threads }};
    const int e = i % {{ width }};
    const i64 t = t_begin + i / {{ width }};
    if (i < {{ rows * width }} && t < t_end) {{ result }} = from_f32<{{ element }}>(sums[n] / totals[i / {{ width }}]);
}
{%- endif %}
{%- for tail in tails %}

// The last {{ tail.width }} rows of {{ tail.pointer }}, for the next run; each block copies a share.
for (i64 i = share * {{ threads }} + tid; i < {{ tail.width * tail.row }}; i += shares * {{ threads }}) {
    const i64 t = T - {{ tail.width }} + i / {{ tail.row }};
    {{ tail.new }}[b * {{ tail.width * tail.row }} + i] = t < 0 ? {{ tail.old }}[b * {{ tail.width * tail.row }} + i + T * {{ tail.row }}] : to_f32({{ tail.pointer }}[(b * T + t) * {{ tail.row }} + i % {{ tail.row }}]);
}
{%- endfor %}
