const i64 runs = (T + {{ rows - 1 }}) / {{ rows }};
const i64 shares = runs * {{ heads }};
const i64 share = block % shares;
{%- for axis in grid %}
const int {{ axis.name }} = (int)(block % {{ axis.size }});
block /= {{ axis.size }};
{%- endfor %}
const i64 batch = block / runs;
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
for (int item = tid; item < {{ rows * depth }}; item += {{ threads }}) {
    const int elem = item % {{ depth }};
    const i64 t = t_begin + item / {{ depth }};
    queries[item] = t < t_end ? to_f32({{ query.now }}) * {{ scale }} : 0.0f;
}
for (int tile_row = tid; tile_row < {{ rows }}; tile_row += {{ threads }}) {
    tops[tile_row] = -FUSEC_INF;
    totals[tile_row] = 0.0f;
}
float sums[{{ held }}];
#pragma unroll
for (int nth = 0; nth < {{ held }}; ++nth) sums[nth] = 0.0f;

// Rows before this run that exist, and the first row that any row of the block sees.
const i64 past = position < {{ window - 1 }} ? position : {{ window - 1 }};
const i64 first = t_begin - {{ window - 1 }} < -past ? -past : t_begin - {{ window - 1 }};
for (i64 begin = first; begin < t_end; begin += {{ tile }}) {
    __syncthreads();
    for (int item = tid; item < {{ tile * depth }}; item += {{ threads }}) {
        const int elem = item % {{ depth }};
        const i64 t = begin + item / {{ depth }};
        float x = 0.0f;
        if (t < t_end) x = {% if key.before %}t < 0 ? {{ key.before }} : {% endif %}to_f32({{ key.now }});
        keys[item / {{ depth }} * {{ depth + 1 }} + elem] = x;
    }
    for (int item = tid; item < {{ tile * width }}; item += {{ threads }}) {
        const int elem = item % {{ width }};
        const i64 t = begin + item / {{ width }};
        float x = 0.0f;
        if (t < t_end) x = {% if value.before %}t < 0 ? {{ value.before }} : {% endif %}to_f32({{ value.now }});
        values[item] = x;
    }
    __syncthreads();
    for (int item = tid; item < {{ rows * tile }}; item += {{ threads }}) {
        const int tile_row = item / {{ tile }};
        const int kept = item % {{ tile }};
        const i64 back = t_begin + tile_row - (begin + kept);
        float x = -FUSEC_INF;
        if (back >= 0 && back < {{ window }}) {
            x = 0.0f;
            for (int elem = 0; elem < {{ depth }}; ++elem) x += queries[tile_row * {{ depth }} + elem] * keys[kept * {{ depth + 1 }} + elem];
        }
        weights[item] = x;
    }
    __syncthreads();
    for (int tile_row = tid / 32; tile_row < {{ rows }}; tile_row += {{ warps }}) {
        float top = tops[tile_row];
        for (int kept = tid % 32; kept < {{ tile }}; kept += 32) top = fmax32(top, weights[tile_row * {{ tile }} + kept]);
        top = warp_max(top);
        float total = 0.0f;
        for (int kept = tid % 32; kept < {{ tile }}; kept += 32) {
            const float x = weights[tile_row * {{ tile }} + kept];
            const float weight = x == -FUSEC_INF ? 0.0f : fexp(x - top);
            weights[tile_row * {{ tile }} + kept] = weight;
            total += weight;
        }
        total = warp_sum(total);
        if (tid % 32 == 0) {
            factors[tile_row] = totals[tile_row] == 0.0f ? 0.0f : fexp(tops[tile_row] - top);
            totals[tile_row] = totals[tile_row] * factors[tile_row] + total;
            tops[tile_row] = top;
        }
    }
    __syncthreads();
#pragma unroll
    for (int nth = 0; nth < {{ held }}; ++nth) {
        const int item = tid + nth * {{ threads }};
        if (item < {{ rows * width }}) {
            const int tile_row = item / {{ width }};
            const i64 t = t_begin + tile_row;
            // Only rows that are seen: what a later one holds must not matter, not even a NaN.
            const i64 low = t - {{ window - 1 }} - begin;
            const i64 high = t + 1 - begin;
            const int kept_begin = low > 0 ? (int)(low < {{ tile }} ? low : {{ tile }}) : 0;
            const int kept_end = (int)(high < {{ tile }} ? high : {{ tile }});
            float sum = sums[nth] * factors[tile_row];
            for (int kept = kept_begin; kept < kept_end; ++kept) sum += weights[tile_row * {{ tile }} + kept] * values[kept * {{ width }} + item % {{ width }}];
            sums[nth] = sum;
        }
    }
}
#pragma unroll
for (int nth = 0; nth < {{ held }}; ++nth) {
    const int item = tid + nth * {{ threads }};
    const int elem = item % {{ width }};
    const i64 t = t_begin + item / {{ width }};
    if (item < {{ rows * width }} && t < t_end) {{ result }} = from_f32<{{ element }}>(sums[nth] / totals[item / {{ width }}]);
}
{%- endif %}
{%- include "attend_tails.cu" %}