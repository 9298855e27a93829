{
    // Y[m, n] = sum over k of a(m, k) * w(n, k) on the FP32 units: a tile of {{ tile.rows }} rows x {{ tile.columns }} columns per
    // block, {{ tile.thread_rows }} x {{ tile.thread_columns }} per thread, two buffers in shared memory.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, TILE_K = {{ tile.depth }}, THREADS = {{ tile.threads }};
    constexpr int THREAD_M = {{ tile.thread_rows }}, THREAD_N = {{ tile.thread_columns }};
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    constexpr int A_PITCH = TILE_M + 4, W_PITCH = TILE_N + 4;
    const int tid = threadIdx.x;
    const i64 rows = {{ rows }};
    const i64 m0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int n0 = int({{ block }} % COLUMN_TILES) * TILE_N;
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
        auto fetch = [&](int k0) {
#pragma unroll
            for (int i = 0; i < A_PER_THREAD; ++i) {
                const int chunk = tid + i * THREADS;
                const i64 m = m0 + chunk / (TILE_K / A_VEC);
                const int k_chunk = k0 + chunk % (TILE_K / A_VEC) * A_VEC;
                const bool inside = chunk < A_CHUNKS && m < rows && k_chunk < DEPTH;
{%- if p.x %}
                if (inside) load_vec({{ p.x }} + m * i64({{ p.x_stride }}) + k_chunk, a_next[i]);
{%- endif %}
#pragma unroll
                for (int v = 0; v < A_VEC; ++v) {
                    float a = 0.0f;
                    if (inside) {
{%- if p.x %}
                        a = a_next[i][v];
{%- endif %}
{%- if p.prologue %}
                        const int k = k_chunk + v;
                        // ---- prologue: a = a(m, k)
                        {{ p.prologue | indent(width=24) }}
                        // ---- end of prologue
{%- endif %}
                    }
                    a_next[i][v] = a;
                }
            }
#pragma unroll
            for (int i = 0; i < W_PER_THREAD; ++i) {
                const int chunk = tid + i * THREADS;
{%- if p.w_layout == "kn" %}
                const int n = n0 + chunk % (TILE_N / W_VEC) * W_VEC, k = k0 + chunk / (TILE_N / W_VEC);
                const i64 offset = i64(k) * {{ p.w_stride }} + n;
{%- else %}
                const int n = n0 + chunk / (TILE_K / W_VEC), k = k0 + chunk % (TILE_K / W_VEC) * W_VEC;
                const i64 offset = i64(n) * {{ p.w_stride }} + k;
{%- endif %}
                if (chunk < W_CHUNKS && n < COLUMNS && k < DEPTH) {
                    load_vec({{ p.w }} + offset, w_next[i]);
                } else {
#pragma unroll
                    for (int v = 0; v < W_VEC; ++v) w_next[i][v] = 0.0f;
                }
            }
        };
        // Registers to a buffer of shared memory, both tiles with k outermost.
        auto place = [&](int buffer) {
#pragma unroll
            for (int i = 0; i < A_PER_THREAD; ++i) {
                const int chunk = tid + i * THREADS;
                const int row = chunk / (TILE_K / A_VEC), k = buffer * TILE_K + chunk % (TILE_K / A_VEC) * A_VEC;
#pragma unroll
                for (int v = 0; v < A_VEC; ++v)
                    if (chunk < A_CHUNKS) a_tiles[(k + v) * A_PITCH + row] = a_next[i][v];
            }
#pragma unroll
            for (int i = 0; i < W_PER_THREAD; ++i) {
                const int chunk = tid + i * THREADS;
#pragma unroll
                for (int v = 0; v < W_VEC; ++v) {
{%- if p.w_layout == "kn" %}
                    const int column = chunk % (TILE_N / W_VEC) * W_VEC + v, k = buffer * TILE_K + chunk / (TILE_N / W_VEC);
{%- else %}
                    const int column = chunk / (TILE_K / W_VEC), k = buffer * TILE_K + chunk % (TILE_K / W_VEC) * W_VEC + v;
{%- endif %}
                    if (chunk < W_CHUNKS) w_tiles[k * W_PITCH + column] = w_next[i][v];
                }
            }
        };
        fetch(0);
        place(0);
        __syncthreads();
        for (int step = 0; step < STEPS; ++step) {
            if (step + 1 < STEPS) fetch((step + 1) * TILE_K);
            const float* const a_tile = a_tiles + (step & 1) * TILE_K * A_PITCH + ty * THREAD_M;
            const float* const w_tile = w_tiles + (step & 1) * TILE_K * W_PITCH + tx;
#pragma unroll
            for (int k = 0; k < TILE_K; ++k) {
                float a_regs[THREAD_M], w_regs[THREAD_N];
                load_vec(a_tile + k * A_PITCH, a_regs);
#pragma unroll
                for (int j = 0; j < THREAD_N; ++j) w_regs[j] = w_tile[k * W_PITCH + 16 * j];
#pragma unroll
                for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
                    for (int j = 0; j < THREAD_N; ++j) acc_{{ p.name }}[i][j] += a_regs[i] * w_regs[j];
            }
            if (step + 1 < STEPS) place((step + 1) & 1);
            __syncthreads();
        }
    }
{% endfor %}
#pragma unroll
    for (int i = 0; i < THREAD_M; ++i) {
        const i64 m = m0 + ty * THREAD_M + i;
        if (m < rows) {
{%- if row_prologue %}
            {{ row_prologue | indent(width=12) }}
{%- endif %}
#pragma unroll
            for (int j = 0; j < THREAD_N; ++j) {
                const int n = n0 + tx + 16 * j;
                if (n < COLUMNS) {
{%- for p in products %}
                    const float {{ p.name }} = acc_{{ p.name }}[i][j];
{%- endfor %}
                    // ---- epilogue of element (m, n)
                    {{ epilogue | indent(width=20) }}
                    // ---- end of epilogue
                }
            }
        }
    }
}
