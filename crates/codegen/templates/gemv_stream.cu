{
    // y[row, column] = sum over inner of a(row, inner) * w(column, inner) for one row a block, staged in shared memory as f32.
    //
    // The weights of the block's columns are one stream: step after step of STEP terms of TOGETHER columns, through
    // the sums of a product and from one product to the next. The warps take equal stretches of it, so that a sum may be shared by warps that
    // follow each other. A lane copies what it multiplies itself to shared memory, IN_FLIGHT steps ahead; the first are on
    // their way while {% if early %}the kernel before this one ends{% else %}the row is computed{% endif %}.
    constexpr int TILE_M = 1, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS, TOGETHER = {{ tile.together }}, IN_FLIGHT = {{ tile.in_flight }};
    constexpr int DEPTH = {{ products[0].depth }}, VEC = {{ products[0].w_vector }}, STEP = 32 * VEC, STEPS = (DEPTH + STEP - 1) / STEP;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES);
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
    const int groups = (min(TILE_N, COLUMNS - column0) + TOGETHER - 1) / TOGETHER;
    const int all = {{ products | length }} * groups * STEPS, stretch = (all + WARPS - 1) / WARPS;
    const int first = min(warp * stretch, all), last = min(first + stretch, all);
    {{ products[0].w_type }}* const ring = reinterpret_cast<{{ products[0].w_type }}*>(reinterpret_cast<char*>(smem) + {{ products[0].ring_offset }}) + tid * VEC;  // [IN_FLIGHT][TOGETHER][THREADS][VEC]
    // Where the terms of a column of the block begin.
    auto weights = [&]({% if products | length > 1 %}int product, {% endif %}int tile_column) {
        // Columns past those of the block read the last one again; nothing of them is kept.
        const int column = min(column0 + min(tile_column, TILE_N - 1), COLUMNS - 1);
{%- for p in products %}
{%- if loop.last %}
        return {{ p.w }} + i64(column) * {{ p.w_stride }};
{%- else %}
        if (product == {{ loop.index0 }}) return {{ p.w }} + i64(column) * {{ p.w_stride }};
{%- endif %}
{%- endfor %}
    };
    int ahead = first, ahead_step = first % STEPS, ahead_group = first / STEPS{% if products | length > 1 %} % groups, ahead_product = first / (STEPS * groups){% endif %};
    const {{ products[0].w_type }}* from[TOGETHER];
    auto next_columns = [&]() {
#pragma unroll
        for (int own = 0; own < TOGETHER; ++own) from[own] = weights({% if products | length > 1 %}ahead_product, {% endif %}ahead_group * TOGETHER + own) + lane * VEC;
    };
    next_columns();
    auto fetch = [&](int slot) {
        if (ahead < last) {
            const int inner = ahead_step * STEP;
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own)
                cp_async_16(ring + (slot * TOGETHER + own) * THREADS * VEC, from[own] + inner, DEPTH % STEP == 0 || inner + lane * VEC < DEPTH);
            ++ahead;
            if (++ahead_step == STEPS) {
                ahead_step = 0;
{%- if products | length > 1 %}
                if (++ahead_group == groups) {
                    ahead_group = 0;
                    ++ahead_product;
                }
{%- else %}
                ++ahead_group;
{%- endif %}
                next_columns();
            }
        }
        cp_async_commit();
    };
#pragma unroll
    for (int slot = 0; slot < IN_FLIGHT; ++slot) fetch(slot);
{%- if early %}
    grid_dependency_wait();
{%- endif %}
{% for p in products %}
{%- include "gemv_rows.cu" -%}
{% endfor %}
    __syncthreads();
    {
        float acc[TOGETHER] = {};
        int slot = 0, step = first % STEPS, group = first / STEPS{% if products | length > 1 %} % groups, product = first / (STEPS * groups){% endif %};
        for (int at = first; at < last; ++at) {
            cp_async_wait<IN_FLIGHT - 1>();
            float w_regs[TOGETHER][VEC];
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own) load_vec(ring + (slot * TOGETHER + own) * THREADS * VEC, w_regs[own]);
            fetch(slot);
{%- if early %}
            // All copies are under way: the next kernel's may follow them.
            if (ahead >= last) grid_dependency_launch();
{%- endif %}
            slot = slot + 1 == IN_FLIGHT ? 0 : slot + 1;
            const int inner = step * STEP + lane * VEC;
            if (DEPTH % STEP == 0 || inner < DEPTH) {
{%- if products | length > 1 %}
                const float* a = a_{{ products[0].name }};
{%- for p in products %}
{%- if not loop.first and p.a_offset != products[0].a_offset %}
                if (product == {{ loop.index0 }}) a = a_{{ p.name }};
{%- endif %}
{%- endfor %}
{%- else %}
                const float* const a = a_{{ products[0].name }};
{%- endif %}
                float a_regs[VEC];
                load_vec(a + inner, a_regs);
#pragma unroll
                for (int own = 0; own < TOGETHER; ++own)
#pragma unroll
                    for (int nth = 0; nth < VEC; ++nth) acc[own] += a_regs[nth] * w_regs[own][nth];
            }
            if (++step < STEPS && at + 1 < last) continue;
            // The sums end here, or the warp after this one goes on with them.
#pragma unroll
            for (int own = 0; own < TOGETHER; ++own) {
                const float sum = warp_sum(acc[own]);
                const int tile_column = group * TOGETHER + own;
                if (lane == 0 && tile_column < TILE_N) {
{%- if products | length > 1 %}
                    float* sums = sums_{{ products[0].name }};
{%- for p in products %}
{%- if not loop.first %}
                    if (product == {{ loop.index0 }}) sums = sums_{{ p.name }};
{%- endif %}
{%- endfor %}
{%- else %}
                    float* const sums = sums_{{ products[0].name }};
{%- endif %}
                    sums[warp * TILE_N + tile_column] = sum;
                }
                acc[own] = 0.0f;
            }
            step = 0;
{%- if products | length > 1 %}
            if (++group == groups) {
                group = 0;
                ++product;
            }
{%- else %}
            ++group;
{%- endif %}
        }
    }
    __syncthreads();
    for (int element = tid; element < TILE_N; element += THREADS) {
        const i64 row = row0;
        const int column = column0 + element;
        if (row < rows && column < COLUMNS) {
{%- for p in products %}
            float {{ p.name }} = 0.0f;
            {
                const int begin = ({% if not loop.first %}{{ loop.index0 }} * groups + {% endif %}element / TOGETHER) * STEPS;
                for (int part = begin / stretch; part <= (begin + STEPS - 1) / stretch; ++part) {{ p.name }} += sums_{{ p.name }}[part * TILE_N + element];
            }
{%- endfor %}
{%- if row_prologue %}
            {{ row_prologue | indent(width=12) }}
{%- endif %}
            // ---- epilogue of element (row, column)
            {{ epilogue | indent(width=12) }}
            // ---- end of epilogue
        }
    }
}
