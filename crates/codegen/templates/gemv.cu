{
    // y[row, column] = sum over inner of a(row, inner) * w(column, inner) for few rows: {{ tile.rows }} row(s)
    // staged in shared memory as f32, the weights streamed once, {{ tile.columns }} columns per block.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{%- if nk %}
    // A group of SPLIT warps holds COLUMNS_PER_GROUP rows of the weights; each lane takes neighbouring terms of the sum,
    // IN_FLIGHT times at once{% if ring %}, which it copies to shared memory for itself{% endif %}. The first are on their way while {% if early %}the kernel before
    // this one ends{% else %}the rows are computed{% endif %}.
    constexpr int SPLIT = {{ tile.split }}, COLUMNS_PER_GROUP = TILE_N * SPLIT / WARPS, IN_FLIGHT = {{ tile.unroll }};
    const int part = warp % SPLIT, tile_column = warp / SPLIT * COLUMNS_PER_GROUP;
{%- endif %}
{%- for p in products %}
{%- if p.w_layout == "nk" %}
    constexpr int vec_{{ p.name }} = {{ p.w_vector }}, step_{{ p.name }} = 32 * vec_{{ p.name }} * SPLIT;
{%- if p.ring_offset is number %}
    {{ p.w_type }}* const weights_{{ p.name }} = reinterpret_cast<{{ p.w_type }}*>(reinterpret_cast<char*>(smem) + {{ p.ring_offset }}) + tid * vec_{{ p.name }};  // [IN_FLIGHT][COLUMNS_PER_GROUP][THREADS][VEC]
{%- else %}
    Pending<{{ p.w_type }}, {{ p.w_vector }}> weights_{{ p.name }}[IN_FLIGHT][COLUMNS_PER_GROUP];
{%- endif %}
    auto fetch_{{ p.name }} = [&](int slot, int inner) {
        if (inner >= {{ p.depth }}) return;
#pragma unroll
        for (int own = 0; own < COLUMNS_PER_GROUP; ++own) {
            // Columns past the end read the last one again; nothing of them is kept.
            const int column = min(column0 + tile_column + own, COLUMNS - 1);
{%- if p.ring_offset is number %}
            cp_async_16(weights_{{ p.name }} + (slot * COLUMNS_PER_GROUP + own) * THREADS * vec_{{ p.name }}, {{ p.w }} + i64(column) * {{ p.w_stride }} + inner, true);
{%- else %}
            weights_{{ p.name }}[slot][own].load_stream({{ p.w }} + i64(column) * {{ p.w_stride }} + inner);
{%- endif %}
        }
    };
{%- endif %}
{%- endfor %}
{%- if nk %}
#pragma unroll
    for (int slot = 0; slot < IN_FLIGHT; ++slot) {
{%- for p in products %}
{%- if p.w_layout == "nk" %}
        fetch_{{ p.name }}(slot, (part * 32 + lane) * vec_{{ p.name }} + slot * step_{{ p.name }});
{%- endif %}
{%- endfor %}
{%- if ring %}
        cp_async_commit();
{%- endif %}
    }
{%- endif %}
{%- if early %}
    grid_dependency_wait();
    grid_dependency_launch();
{%- endif %}
{% for p in products %}
{%- include "gemv_rows.cu" -%}
{% endfor %}
    __syncthreads();
{% for p in products %}
    {
        constexpr int DEPTH = {{ p.depth }}, VEC = {{ p.w_vector }};
{%- if p.w_layout == "kn" %}
        // Weights with the summed axis outermost: LANES_N lanes side by side hold VEC columns each, the others and the
        // warps take other terms of the sum.
        constexpr int LANES_N = TILE_N / VEC, STEP = WARPS * (32 / LANES_N){% if not nk %}, UNROLL = {{ tile.unroll }}{% endif %};
        const int column = column0 + lane % LANES_N * VEC;
        float acc[TILE_M][VEC] = {};
        for (int inner0 = warp * (32 / LANES_N) + lane / LANES_N; inner0 < DEPTH; inner0 += STEP * UNROLL) {
            float w_regs[UNROLL][VEC];
#pragma unroll
            for (int load = 0; load < UNROLL; ++load) {
                const int inner = inner0 + load * STEP;
                if (inner < DEPTH && column < COLUMNS) {
                    load_vec_stream({{ p.w }} + i64(inner) * {{ p.w_stride }} + column, w_regs[load]);
                } else {
#pragma unroll
                    for (int nth = 0; nth < VEC; ++nth) w_regs[load][nth] = 0.0f;
                }
            }
#pragma unroll
            for (int load = 0; load < UNROLL; ++load) {
                const int inner = inner0 + load * STEP;
                if (inner >= DEPTH) break;
#pragma unroll
                for (int tile_row = 0; tile_row < TILE_M; ++tile_row) {
                    const float activation = a_{{ p.name }}[tile_row * DEPTH + inner];
#pragma unroll
                    for (int nth = 0; nth < VEC; ++nth) acc[tile_row][nth] += activation * w_regs[load][nth];
                }
            }
        }
#pragma unroll
        for (int tile_row = 0; tile_row < TILE_M; ++tile_row)
#pragma unroll
            for (int nth = 0; nth < VEC; ++nth) {
                const float sum = lane_sum_strided<LANES_N>(acc[tile_row][nth]);
                if (lane < LANES_N) sums_{{ p.name }}[(warp * TILE_M + tile_row) * TILE_N + lane * VEC + nth] = sum;
            }
{%- else %}
        constexpr int STEP = step_{{ p.name }};
        float acc[TILE_M][COLUMNS_PER_GROUP] = {};
        for (int inner0 = (part * 32 + lane) * VEC; inner0 < DEPTH; inner0 += STEP * IN_FLIGHT) {
#pragma unroll
            for (int slot = 0; slot < IN_FLIGHT; ++slot) {
                const int inner = inner0 + slot * STEP;
                if (inner >= DEPTH) break;
{%- if p.ring_offset is number %}
                cp_async_wait<IN_FLIGHT - 1>();
{%- endif %}
                float w_regs[COLUMNS_PER_GROUP][VEC];
#pragma unroll
                for (int own = 0; own < COLUMNS_PER_GROUP; ++own) {
{%- if p.ring_offset is number %}
                    load_vec(weights_{{ p.name }} + (slot * COLUMNS_PER_GROUP + own) * THREADS * VEC, w_regs[own]);
{%- else %}
#pragma unroll
                    for (int nth = 0; nth < VEC; ++nth) w_regs[own][nth] = weights_{{ p.name }}[slot][own].f32(nth);
{%- endif %}
                }
                fetch_{{ p.name }}(slot, inner + STEP * IN_FLIGHT);
{%- if ring %}
                cp_async_commit();
{%- endif %}
#pragma unroll
                for (int tile_row = 0; tile_row < TILE_M; ++tile_row) {
                    float a_regs[VEC];
                    load_vec(a_{{ p.name }} + tile_row * DEPTH + inner, a_regs);
#pragma unroll
                    for (int own = 0; own < COLUMNS_PER_GROUP; ++own)
#pragma unroll
                        for (int nth = 0; nth < VEC; ++nth) acc[tile_row][own] += a_regs[nth] * w_regs[own][nth];
                }
            }
        }
#pragma unroll
        for (int tile_row = 0; tile_row < TILE_M; ++tile_row)
#pragma unroll
            for (int own = 0; own < COLUMNS_PER_GROUP; ++own) {
                const float sum = warp_sum(acc[tile_row][own]);
                if (lane == 0) sums_{{ p.name }}[(part * TILE_M + tile_row) * TILE_N + tile_column + own] = sum;
            }
{%- endif %}
    }
{% endfor %}
    __syncthreads();
    for (int element = tid; element < TILE_M * TILE_N; element += THREADS) {
        const i64 row = row0 + element / TILE_N;
        const int column = column0 + element % TILE_N;
        if (row < rows && column < COLUMNS) {
{%- for p in products %}
            float {{ p.name }} = sums_{{ p.name }}[element];
#pragma unroll
            for (int part = 1; part < {{ p.parts }}; ++part) {{ p.name }} += sums_{{ p.name }}[part * TILE_M * TILE_N + element];
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
