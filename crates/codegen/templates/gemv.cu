{
    // y[m, n] = sum over k of a(m, k) * w(n, k) for few rows: {{ tile.rows }} row(s) staged in shared memory as f32, the
    // weights streamed once, {{ tile.columns }} columns per block.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 m0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int n0 = int({{ block }} % COLUMN_TILES) * TILE_N;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{%- for p in products %}
{%- if p.stage and p.w_layout == "nk" %}
    // The weights are on their way to the L2 cache while the rows are computed.
    for (int line = tid; line < TILE_N * ({{ p.depth }} / {{ p.w_line }}); line += THREADS) {
        const int n = n0 + line % TILE_N;
        if (n < COLUMNS) prefetch_l2({{ p.w }} + i64(n) * {{ p.w_stride }} + line / TILE_N * {{ p.w_line }});
    }
{%- endif %}
{%- endfor %}
{% for p in products %}
    float* const a_{{ p.name }} = reinterpret_cast<float*>(smem) + {{ p.a_offset }};             // [TILE_M][{{ p.depth }}]
    float* const sums_{{ p.name }} = reinterpret_cast<float*>(smem) + {{ p.sums_offset }};       // [{{ p.parts }}][TILE_M][TILE_N]
{%- if p.stage %}
    {
        float* const xs = a_{{ p.name }};
        // ---- stage: xs[m - m0][k] = a(m, k), rows past the end 0
        {{ p.stage | indent(width=8) }}
        // ---- end of stage
    }
{%- else %}
    for (int chunk = tid; chunk < TILE_M * {{ p.depth }} / {{ p.x_vector }}; chunk += THREADS) {
        constexpr int DEPTH = {{ p.depth }}, VEC = {{ p.x_vector }};
        const i64 m = m0 + chunk / (DEPTH / VEC);
        const int k_chunk = chunk % (DEPTH / VEC) * VEC;
        float x_regs[VEC] = {};
{%- if p.x %}
        if (m < rows) load_vec({{ p.x }} + m * i64({{ p.x_stride }}) + k_chunk, x_regs);
{%- endif %}
{%- if p.prologue %}
#pragma unroll
        for (int v = 0; v < VEC; ++v) {
            const int k = k_chunk + v;
            float a = x_regs[v];
            if (m < rows) {
                // ---- prologue: a = a(m, k)
                {{ p.prologue | indent(width=16) }}
                // ---- end of prologue
            }
            x_regs[v] = a;
        }
{%- endif %}
        store_vec(a_{{ p.name }} + chunk * VEC, x_regs);
    }
{%- endif %}
{% endfor %}
    __syncthreads();
{% for p in products %}
    {
        constexpr int DEPTH = {{ p.depth }}, VEC = {{ p.w_vector }}, UNROLL = {{ tile.unroll }};
{%- if p.w_layout == "kn" %}
        // Weights with k outermost: LANES_N lanes side by side hold VEC columns each, the others and the warps take
        // different k.
        constexpr int LANES_N = TILE_N / VEC, STEP = WARPS * (32 / LANES_N);
        const int n = n0 + lane % LANES_N * VEC;
        float acc[TILE_M][VEC] = {};
        for (int k0 = warp * (32 / LANES_N) + lane / LANES_N; k0 < DEPTH; k0 += STEP * UNROLL) {
            float w_regs[UNROLL][VEC];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                const int k = k0 + u * STEP;
                if (k < DEPTH && n < COLUMNS) {
                    load_vec_stream({{ p.w }} + i64(k) * {{ p.w_stride }} + n, w_regs[u]);
                } else {
#pragma unroll
                    for (int v = 0; v < VEC; ++v) w_regs[u][v] = 0.0f;
                }
            }
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                const int k = k0 + u * STEP;
                if (k >= DEPTH) break;
#pragma unroll
                for (int m = 0; m < TILE_M; ++m) {
                    const float a = a_{{ p.name }}[m * DEPTH + k];
#pragma unroll
                    for (int v = 0; v < VEC; ++v) acc[m][v] += a * w_regs[u][v];
                }
            }
        }
#pragma unroll
        for (int m = 0; m < TILE_M; ++m)
#pragma unroll
            for (int v = 0; v < VEC; ++v) {
                const float sum = lane_sum_strided<LANES_N>(acc[m][v]);
                if (lane < LANES_N) sums_{{ p.name }}[(warp * TILE_M + m) * TILE_N + lane * VEC + v] = sum;
            }
{%- else %}
        // A group of SPLIT warps holds COLUMNS_PER_GROUP rows of the weights; each lane takes VEC elements of k at a time.
        constexpr int SPLIT = {{ tile.split }}, COLUMNS_PER_GROUP = TILE_N * SPLIT / WARPS, STEP = 32 * VEC * SPLIT;
        const int part = warp % SPLIT, column = warp / SPLIT * COLUMNS_PER_GROUP;
        float acc[TILE_M][COLUMNS_PER_GROUP] = {};
        for (int k0 = (part * 32 + lane) * VEC; k0 < DEPTH; k0 += STEP * UNROLL) {
            float w_regs[UNROLL][COLUMNS_PER_GROUP][VEC];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u)
#pragma unroll
                for (int c = 0; c < COLUMNS_PER_GROUP; ++c) {
                    const int k = k0 + u * STEP, n = n0 + column + c;
                    if (k < DEPTH && n < COLUMNS) {
                        load_vec_stream({{ p.w }} + i64(n) * {{ p.w_stride }} + k, w_regs[u][c]);
                    } else {
#pragma unroll
                        for (int v = 0; v < VEC; ++v) w_regs[u][c][v] = 0.0f;
                    }
                }
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                const int k = k0 + u * STEP;
                if (k >= DEPTH) break;
#pragma unroll
                for (int m = 0; m < TILE_M; ++m) {
                    float a_regs[VEC];
                    load_vec(a_{{ p.name }} + m * DEPTH + k, a_regs);
#pragma unroll
                    for (int c = 0; c < COLUMNS_PER_GROUP; ++c)
#pragma unroll
                        for (int v = 0; v < VEC; ++v) acc[m][c] += a_regs[v] * w_regs[u][c][v];
                }
            }
        }
#pragma unroll
        for (int m = 0; m < TILE_M; ++m)
#pragma unroll
            for (int c = 0; c < COLUMNS_PER_GROUP; ++c) {
                const float sum = warp_sum(acc[m][c]);
                if (lane == 0) sums_{{ p.name }}[(part * TILE_M + m) * TILE_N + column + c] = sum;
            }
{%- endif %}
    }
{% endfor %}
    __syncthreads();
    for (int element = tid; element < TILE_M * TILE_N; element += THREADS) {
        const i64 m = m0 + element / TILE_N;
        const int n = n0 + element % TILE_N;
        if (m < rows && n < COLUMNS) {
{%- for p in products %}
            float {{ p.name }} = sums_{{ p.name }}[element];
#pragma unroll
            for (int part = 1; part < {{ p.parts }}; ++part) {{ p.name }} += sums_{{ p.name }}[part * TILE_M * TILE_N + element];
{%- endfor %}
{%- if row_prologue %}
            {{ row_prologue | indent(width=12) }}
{%- endif %}
            // ---- epilogue of element (m, n)
            {{ epilogue | indent(width=12) }}
            // ---- end of epilogue
        }
    }
}
