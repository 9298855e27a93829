{
    // Y[row, column] = sum over inner of a(row, inner) * w(column, inner) on the tensor cores (mma.sync m16n8k16,
    // f32 accumulators): a tile of {{ tile.rows }} rows x {{ tile.columns }} columns per block, {{ tile.warps_m }} x {{ tile.warps_n }} warps, {{ tile.stages }} stages in shared memory.
    typedef {{ tile.operand }} Operand;
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, TILE_K = {{ tile.depth }}, STAGES = {{ tile.stages }};
    constexpr int WARPS_M = {{ tile.warps_m }}, WARPS_N = {{ tile.warps_n }}, THREADS = 32 * WARPS_M * WARPS_N;
    constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N, MMA_M = WARP_M / 16, MMA_N = WARP_N / 8;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    // Eight elements of padding keep the rows of an ldmatrix in different banks.
    constexpr int A_PITCH = TILE_K + 8, STAGE_ELEMENTS = {{ stage_elements }};
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
    Operand* const stages = reinterpret_cast<Operand*>(smem);      // [STAGES][A tile, then W tile]
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{% for p in products %}
    float acc_{{ p.name }}[MMA_M][MMA_N][4] = {};
    {
        constexpr int DEPTH = {{ p.depth }}, STEPS = (DEPTH + TILE_K - 1) / TILE_K;
        constexpr int A_CHUNKS = TILE_M * TILE_K / 8, W_CHUNKS = TILE_N * TILE_K / 8;
{%- if not p.x_async %}
        constexpr int A_PER_THREAD = (A_CHUNKS + THREADS - 1) / THREADS;
        float a_next[A_PER_THREAD][8];
        // Global memory to registers, before the products of another step hide the latency.
        auto fetch = [&](int step) {
#pragma unroll
            for (int ti = 0; ti < A_PER_THREAD; ++ti) {
                const int chunk = tid + ti * THREADS;
                const i64 row = row0 + chunk / (TILE_K / 8);
                const int inner_chunk = step * TILE_K + chunk % (TILE_K / 8) * 8;
                const bool row_inside = chunk < A_CHUNKS && row < rows;
{%- if p.x and p.x_vector == 8 %}
                if (row_inside && inner_chunk < DEPTH) load_vec({{ p.x }} + row * i64({{ p.x_stride }}) + inner_chunk, a_next[ti]);
{%- elif p.x %}
#pragma unroll
                for (int nth = 0; nth < 8; ++nth)
                    if (row_inside && inner_chunk + nth < DEPTH) a_next[ti][nth] = load_f32({{ p.x }} + row * i64({{ p.x_stride }}) + inner_chunk + nth);
{%- endif %}
            }
        };
        // Registers through the prologue to shared memory.
        auto place = [&](int step) {
            Operand* const a_tile = stages + step % STAGES * STAGE_ELEMENTS;
#pragma unroll
            for (int ti = 0; ti < A_PER_THREAD; ++ti) {
                const int chunk = tid + ti * THREADS;
                const i64 row = row0 + chunk / (TILE_K / 8);
                const int inner_chunk = step * TILE_K + chunk % (TILE_K / 8) * 8;
#pragma unroll
                for (int nth = 0; nth < 8; ++nth) {
                    const int inner = inner_chunk + nth;
                    float activation = 0.0f;
                    if (chunk < A_CHUNKS && row < rows && inner < DEPTH) {
{%- if p.x %}
                        activation = a_next[ti][nth];
{%- endif %}
{%- if p.prologue %}
                        // ---- prologue: activation = a(row, inner)
                        {{ p.prologue | indent(width=24) }}
                        // ---- end of prologue
{%- endif %}
                    }
                    a_next[ti][nth] = activation;
                }
                if (chunk < A_CHUNKS) store_vec(a_tile + chunk / (TILE_K / 8) * A_PITCH + chunk % (TILE_K / 8) * 8, a_next[ti]);
            }
        };
{%- endif %}
{%- if p.w_layout == "kn" %}
        constexpr int W_PITCH = TILE_N + 8;  // the tile keeps the weights' layout: the summed axis outermost
{%- else %}
        constexpr int W_PITCH = TILE_K + 8;
{%- endif %}
        // Starts whatever needs no registers on its way to the step's stage.
        auto start = [&](int step) {
            Operand* const a_tile = stages + step % STAGES * STAGE_ELEMENTS;
            Operand* const w_tile = a_tile + TILE_M * A_PITCH;
{%- if p.x_async %}
            for (int chunk = tid; chunk < A_CHUNKS; chunk += THREADS) {
                const int tile_row = chunk / (TILE_K / 8), tile_column = chunk % (TILE_K / 8) * 8, inner = step * TILE_K + tile_column;
                const bool inside = row0 + tile_row < rows && inner < DEPTH;
                cp_async_16(a_tile + tile_row * A_PITCH + tile_column, inside ? {{ p.x }} + (row0 + tile_row) * i64({{ p.x_stride }}) + inner : {{ p.x }}, inside);
            }
{%- else %}
            (void)a_tile;
{%- endif %}
            for (int chunk = tid; chunk < W_CHUNKS; chunk += THREADS) {
{%- if p.w_layout == "kn" %}
                const int tile_row = chunk / (TILE_N / 8), tile_column = chunk % (TILE_N / 8) * 8;
                const int inner = step * TILE_K + tile_row, column = column0 + tile_column;
                const i64 offset = i64(inner) * {{ p.w_stride }} + column;
{%- else %}
                const int tile_row = chunk / (TILE_K / 8), tile_column = chunk % (TILE_K / 8) * 8;
                const int column = column0 + tile_row, inner = step * TILE_K + tile_column;
                const i64 offset = i64(column) * {{ p.w_stride }} + inner;
{%- endif %}
                Operand* const target = w_tile + tile_row * W_PITCH + tile_column;
{%- if p.w_async %}
                const bool inside = column < COLUMNS && inner < DEPTH;
                cp_async_16(target, inside ? {{ p.w }} + offset : {{ p.w }}, inside);
{%- else %}
                float w_regs[8];
#pragma unroll
                for (int nth = 0; nth < 8; ++nth) {
{%- if p.w_layout == "kn" %}
                    const bool inside = column + nth < COLUMNS && inner < DEPTH;
{%- else %}
                    const bool inside = column < COLUMNS && inner + nth < DEPTH;
{%- endif %}
                    w_regs[nth] = inside ? load_f32({{ p.w }} + offset + nth) : 0.0f;
                }
                store_vec(target, w_regs);
{%- endif %}
            }
        };
#pragma unroll
        for (int step = 0; step < STAGES - 1; ++step) {
            if (step < STEPS) {
                start(step);
{%- if not p.x_async %}
                fetch(step);
                place(step);
{%- endif %}
            }
            cp_async_commit();
        }
        for (int step = 0; step < STEPS; ++step) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            const int ahead = step + STAGES - 1;
            if (ahead < STEPS) {
                start(ahead);
{%- if not p.x_async %}
                fetch(ahead);
{%- endif %}
            }
            cp_async_commit();
            const Operand* const a_tile = stages + step % STAGES * STAGE_ELEMENTS;
            const Operand* const w_tile = a_tile + TILE_M * A_PITCH;
#pragma unroll
            for (int inner = 0; inner < TILE_K; inner += 16) {
                u32 a_regs[MMA_M][4], w_regs[MMA_N][2];
#pragma unroll
                for (int ti = 0; ti < MMA_M; ++ti) ldmatrix_x4(a_regs[ti], a_tile + (warp_m * WARP_M + ti * 16 + lane % 16) * A_PITCH + inner + lane / 16 * 8);
#pragma unroll
                for (int tj = 0; tj < MMA_N; tj += 2) {
                    u32 pair[4];
{%- if p.w_layout == "kn" %}
                    ldmatrix_x4_trans(pair, w_tile + (inner + lane % 16) * W_PITCH + warp_n * WARP_N + tj * 8 + lane / 16 * 8);
{%- else %}
                    ldmatrix_x4(pair, w_tile + (warp_n * WARP_N + tj * 8 + lane % 8 + lane / 16 * 8) * W_PITCH + inner + lane / 8 % 2 * 8);
{%- endif %}
                    w_regs[tj][0] = pair[0];
                    w_regs[tj][1] = pair[1];
                    w_regs[tj + 1][0] = pair[2];
                    w_regs[tj + 1][1] = pair[3];
                }
#pragma unroll
                for (int ti = 0; ti < MMA_M; ++ti)
#pragma unroll
                    for (int tj = 0; tj < MMA_N; ++tj) mma_k16<Operand>(acc_{{ p.name }}[ti][tj], a_regs[ti], w_regs[tj]);
            }
{%- if not p.x_async %}
            if (ahead < STEPS) place(ahead);
{%- endif %}
        }
        cp_async_wait<0>();
        __syncthreads();  // the stages are free again
    }
{% endfor %}
    // Through shared memory, 16 rows of a warp at a time, so that neighbouring lanes hold neighbouring columns.
    constexpr int OUT_PITCH = WARP_N + 8, OUT_ELEMENTS = 16 * OUT_PITCH;
    float* const out = reinterpret_cast<float*>(smem) + warp * {{ products | length }} * OUT_ELEMENTS;
#pragma unroll
    for (int ti = 0; ti < MMA_M; ++ti) {
#pragma unroll
        for (int tj = 0; tj < MMA_N; ++tj) {
            const int at = lane / 4 * OUT_PITCH + tj * 8 + lane % 4 * 2;
{%- for p in products %}
            out[{{ loop.index0 }} * OUT_ELEMENTS + at] = acc_{{ p.name }}[ti][tj][0];
            out[{{ loop.index0 }} * OUT_ELEMENTS + at + 1] = acc_{{ p.name }}[ti][tj][1];
            out[{{ loop.index0 }} * OUT_ELEMENTS + at + 8 * OUT_PITCH] = acc_{{ p.name }}[ti][tj][2];
            out[{{ loop.index0 }} * OUT_ELEMENTS + at + 8 * OUT_PITCH + 1] = acc_{{ p.name }}[ti][tj][3];
{%- endfor %}
        }
        __syncwarp();
#pragma unroll 4
        for (int element = lane * {{ run }}; element < 16 * WARP_N; element += 32 * {{ run }}) {
            const i64 row = row0 + warp_m * WARP_M + ti * 16 + element / WARP_N;
            const int column_first = column0 + warp_n * WARP_N + element % WARP_N;
            if (row < rows && column_first < COLUMNS) {
                const int at = element / WARP_N * OUT_PITCH + element % WARP_N;
{%- if row_prologue %}
                {{ row_prologue | indent(width=16) }}
{%- endif %}
{%- if run_before %}
                {{ run_before | indent(width=16) }}
{%- endif %}
#pragma unroll
                for (int nth = 0; nth < {{ run }}; ++nth) {
                    const int column = column_first + nth;
{%- for p in products %}
                    const float {{ p.name }} = out[{{ loop.index0 }} * OUT_ELEMENTS + at + nth];
{%- endfor %}
                    // ---- epilogue of element (row, column)
                    {{ epilogue | indent(width=20) }}
                    // ---- end of epilogue
                }
{%- if run_after %}
                {{ run_after | indent(width=16) }}
{%- endif %}
            }
        }
        __syncwarp();
    }
}
