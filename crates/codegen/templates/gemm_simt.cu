{
    // Y[row, column] = sum over inner of a(row, inner) * w(column, inner) on the FP32 units: a tile of
    // {{ tile.rows }} rows x {{ tile.columns }} columns per block, {{ tile.thread_rows }} x {{ tile.thread_columns }} per thread, two buffers in shared memory.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, TILE_K = {{ tile.depth }}, THREADS = {{ tile.threads }};
    constexpr int THREAD_M = {{ tile.thread_rows }}, THREAD_N = {{ tile.thread_columns }};
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    constexpr int A_PITCH = TILE_M + 4, W_PITCH = TILE_N + 4;
    const int tid = threadIdx.x;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
    // Thread (ty, tx) owns rows ty * THREAD_M.. and columns tx, tx + 16, ...: neighbours store side by side.
    const int tx = tid % 16, ty = tid / 16;
    float* const a_tiles = reinterpret_cast<float*>(smem);         // [2][TILE_K][A_PITCH]
    float* const w_tiles = a_tiles + 2 * TILE_K * A_PITCH;         // [2][TILE_K][W_PITCH]
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{% for p in products %}
    float acc_{{ p.name }}[THREAD_M][THREAD_N] = {};
    {
        constexpr int DEPTH = {{ p.depth }}, STEPS = (DEPTH + TILE_K - 1) / TILE_K;
        constexpr int A_VEC = {{ p.x_vector }}, W_VEC = {{ p.w_vector }};
        constexpr int A_CHUNKS = TILE_M * TILE_K / A_VEC, W_CHUNKS = TILE_N * TILE_K / W_VEC;
        constexpr int A_PER_THREAD = (A_CHUNKS + THREADS - 1) / THREADS, W_PER_THREAD = (W_CHUNKS + THREADS - 1) / THREADS;
        float a_next[A_PER_THREAD][A_VEC], w_next[W_PER_THREAD][W_VEC];
        // Global memory to registers.
        auto fetch = [&](int inner0) {
#pragma unroll
            for (int ti = 0; ti < A_PER_THREAD; ++ti) {
                const int chunk = tid + ti * THREADS;
                const i64 row = row0 + chunk / (TILE_K / A_VEC);
                const int inner_chunk = inner0 + chunk % (TILE_K / A_VEC) * A_VEC;
                const bool inside = chunk < A_CHUNKS && row < rows && inner_chunk < DEPTH;
{%- if p.x %}
                if (inside) load_vec({{ p.x }} + row * i64({{ p.x_stride }}) + inner_chunk, a_next[ti]);
{%- endif %}
#pragma unroll
                for (int nth = 0; nth < A_VEC; ++nth) {
                    float activation = 0.0f;
                    if (inside) {
{%- if p.x %}
                        activation = a_next[ti][nth];
{%- endif %}
{%- if p.prologue %}
                        const int inner = inner_chunk + nth;
                        // ---- prologue: activation = a(row, inner)
                        {{ p.prologue | indent(width=24) }}
                        // ---- end of prologue
{%- endif %}
                    }
                    a_next[ti][nth] = activation;
                }
            }
#pragma unroll
            for (int ti = 0; ti < W_PER_THREAD; ++ti) {
                const int chunk = tid + ti * THREADS;
{%- if p.w_layout == "kn" %}
                const int column = column0 + chunk % (TILE_N / W_VEC) * W_VEC, inner = inner0 + chunk / (TILE_N / W_VEC);
                const i64 offset = i64(inner) * {{ p.w_stride }} + column;
{%- else %}
                const int column = column0 + chunk / (TILE_K / W_VEC), inner = inner0 + chunk % (TILE_K / W_VEC) * W_VEC;
                const i64 offset = i64(column) * {{ p.w_stride }} + inner;
{%- endif %}
                if (chunk < W_CHUNKS && column < COLUMNS && inner < DEPTH) {
                    load_vec({{ p.w }} + offset, w_next[ti]);
                } else {
#pragma unroll
                    for (int nth = 0; nth < W_VEC; ++nth) w_next[ti][nth] = 0.0f;
                }
            }
        };
        // Registers to a buffer of shared memory, both tiles with the summed axis outermost.
        auto place = [&](int buffer) {
#pragma unroll
            for (int ti = 0; ti < A_PER_THREAD; ++ti) {
                const int chunk = tid + ti * THREADS;
                const int tile_row = chunk / (TILE_K / A_VEC), inner = buffer * TILE_K + chunk % (TILE_K / A_VEC) * A_VEC;
#pragma unroll
                for (int nth = 0; nth < A_VEC; ++nth)
                    if (chunk < A_CHUNKS) a_tiles[(inner + nth) * A_PITCH + tile_row] = a_next[ti][nth];
            }
#pragma unroll
            for (int ti = 0; ti < W_PER_THREAD; ++ti) {
                const int chunk = tid + ti * THREADS;
#pragma unroll
                for (int nth = 0; nth < W_VEC; ++nth) {
{%- if p.w_layout == "kn" %}
                    const int tile_column = chunk % (TILE_N / W_VEC) * W_VEC + nth, inner = buffer * TILE_K + chunk / (TILE_N / W_VEC);
{%- else %}
                    const int tile_column = chunk / (TILE_K / W_VEC), inner = buffer * TILE_K + chunk % (TILE_K / W_VEC) * W_VEC + nth;
{%- endif %}
                    if (chunk < W_CHUNKS) w_tiles[inner * W_PITCH + tile_column] = w_next[ti][nth];
                }
            }
        };
        fetch(0);
{%- if not loop.first %}
        __syncthreads();  // the buffers of the product before are read no more
{%- endif %}
        place(0);
        __syncthreads();
        for (int step = 0; step < STEPS; ++step) {
{%- if p.depth > tile.depth %}
            if (step + 1 < STEPS) fetch((step + 1) * TILE_K);
{%- endif %}
            const float* const a_tile = a_tiles + (step & 1) * TILE_K * A_PITCH + ty * THREAD_M;
            const float* const w_tile = w_tiles + (step & 1) * TILE_K * W_PITCH + tx;
#pragma unroll
            for (int inner = 0; inner < TILE_K; ++inner) {
                float a_regs[THREAD_M], w_regs[THREAD_N];
                load_vec(a_tile + inner * A_PITCH, a_regs);
#pragma unroll
                for (int tj = 0; tj < THREAD_N; ++tj) w_regs[tj] = w_tile[inner * W_PITCH + 16 * tj];
#pragma unroll
                for (int ti = 0; ti < THREAD_M; ++ti)
#pragma unroll
                    for (int tj = 0; tj < THREAD_N; ++tj) acc_{{ p.name }}[ti][tj] += a_regs[ti] * w_regs[tj];
            }
{%- if p.depth > tile.depth %}
            if (step + 1 < STEPS) {
                place((step + 1) & 1);
                __syncthreads();
            }
{%- endif %}
        }
    }
{% endfor %}
#pragma unroll
    for (int ti = 0; ti < THREAD_M; ++ti) {
        const i64 row = row0 + ty * THREAD_M + ti;
        if (row < rows) {
{%- if row_prologue %}
            {{ row_prologue | indent(width=12) }}
{%- endif %}
#pragma unroll
            for (int tj = 0; tj < THREAD_N; ++tj) {
                const int column = column0 + tx + 16 * tj;
                if (column < COLUMNS) {
{%- for p in products %}
                    const float {{ p.name }} = acc_{{ p.name }}[ti][tj];
{%- endfor %}
                    // ---- epilogue of element (row, column)
                    {{ epilogue | indent(width=20) }}
                    // ---- end of epilogue
                }
            }
        }
    }
}
