{
    // y[m, n] = sum over k of a(m, k) * w(n, k) for few rows on tensor cores: the weights, streamed once from memory to
    // registers, are the wide operand; {{ tile.rows }} row(s) lie in shared memory. {{ tile.columns }} columns per block.
    //
    // A warp has 16 columns and takes KEYS elements of k at a time. Which k a lane holds is the same for both operands, so it
    // need not be the order of the instruction: every lane reads neighbours, 16 bytes at a time.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS;
    constexpr int SPLIT = {{ tile.split }}, FRAGMENTS = (TILE_M + 7) / 8, KEYS = 64;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 m0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int n0 = int({{ block }} % COLUMN_TILES) * TILE_N;
    // SPLIT warps share the columns of a warp, each with its part of k.
    const int part = warp % SPLIT, column = warp / SPLIT * 16, fragment_row = lane / 4, fragment_k = lane % 4 * 16;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{%- for p in products %}
{%- if p.stage %}
    // The weights are on their way to the L2 cache while the rows are computed.
    for (int line = tid; line < TILE_N * ({{ p.depth }} / {{ p.w_line }}); line += THREADS) {
        const int n = n0 + line % TILE_N;
        if (n < COLUMNS) prefetch_l2({{ p.w }} + i64(n) * {{ p.w_stride }} + line / TILE_N * {{ p.w_line }});
    }
{%- endif %}
{%- endfor %}
{% for p in products %}
    {{ tile.operand }}* const a_{{ p.name }} = reinterpret_cast<{{ tile.operand }}*>(smem) + {{ p.a_offset }};      // [TILE_M][{{ p.pitch }}]
    float* const sums_{{ p.name }} = reinterpret_cast<float*>(smem) + {{ p.sums_offset }};      // [SPLIT][TILE_M][TILE_N]
{%- if p.stage %}
    {
        {{ tile.operand }}* const xs = a_{{ p.name }};
        // ---- stage: xs[(m - m0) * {{ p.pitch }} + k] = a(m, k), rows past the end 0
        {{ p.stage | indent(width=8) }}
        // ---- end of stage
{%- if p.depth % 64 != 0 %}
        for (int at = tid; at < TILE_M * ({{ p.pitch }} - {{ p.depth }}); at += THREADS) {
            constexpr int REST = {{ p.pitch }} - {{ p.depth }};
            xs[at / REST * {{ p.pitch }} + {{ p.depth }} + at % REST] = from_f32<{{ tile.operand }}>(0.0f);
        }
{%- endif %}
    }
{%- else %}
    for (int chunk = tid; chunk < TILE_M * {{ p.pitch }} / {{ p.x_vector }}; chunk += THREADS) {
        constexpr int DEPTH = {{ p.depth }}, PITCH = {{ p.pitch }}, VEC = {{ p.x_vector }};
        const i64 m = m0 + chunk / (PITCH / VEC);
        const int k_chunk = chunk % (PITCH / VEC) * VEC;
        float x_regs[VEC] = {};
{%- if p.x %}
        if (m < rows && k_chunk < DEPTH) load_vec({{ p.x }} + m * i64({{ p.x_stride }}) + k_chunk, x_regs);
{%- endif %}
{%- if p.prologue %}
#pragma unroll
        for (int v = 0; v < VEC; ++v) {
            const int k = k_chunk + v;
            float a = x_regs[v];
            if (m < rows && k < DEPTH) {
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
        constexpr int DEPTH = {{ p.depth }}, PITCH = {{ p.pitch }}, UNROLL = {{ tile.unroll }};
        float acc[FRAGMENTS][4] = {};
        const {{ p.w_type }}* w_rows[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            // Columns past the end read the last one again; nothing of them is kept.
            const int n = min(n0 + column + fragment_row + 8 * half, COLUMNS - 1);
            w_rows[half] = {{ p.w }} + i64(n) * {{ p.w_stride }} + fragment_k;
        }
        for (int k0 = part * KEYS; k0 < DEPTH; k0 += SPLIT * KEYS * UNROLL) {
            u32 w_words[UNROLL][2][8];
#pragma unroll
            for (int u = 0; u < UNROLL; ++u)
#pragma unroll
                for (int half = 0; half < 2; ++half)
#pragma unroll
                    for (int piece = 0; piece < 2; ++piece) {
                        const int k = k0 + u * SPLIT * KEYS + 8 * piece;
                        u32 (&words)[4] = reinterpret_cast<u32 (&)[4]>(w_words[u][half][4 * piece]);
                        if (k + fragment_k < DEPTH) {
                            load_words_stream(w_rows[half] + k, words);
                        } else {
#pragma unroll
                            for (int word = 0; word < 4; ++word) words[word] = 0;
                        }
                    }
#pragma unroll
            for (int u = 0; u < UNROLL; ++u) {
                const int k = k0 + u * SPLIT * KEYS;
                if (k >= DEPTH) break;
#pragma unroll
                for (int fragment = 0; fragment < FRAGMENTS; ++fragment) {
                    u32 a_words[8] = {};
                    const int m = 8 * fragment + fragment_row;
                    if (TILE_M % 8 == 0 || m < TILE_M) {
                        const {{ tile.operand }}* const row = a_{{ p.name }} + m * PITCH + k + fragment_k;
                        load_words(row, reinterpret_cast<u32 (&)[4]>(a_words[0]));
                        load_words(row + 8, reinterpret_cast<u32 (&)[4]>(a_words[4]));
                    }
#pragma unroll
                    for (int step = 0; step < 4; ++step) {
                        const u32 w_part[4] = {w_words[u][0][2 * step], w_words[u][1][2 * step],
                                               w_words[u][0][2 * step + 1], w_words[u][1][2 * step + 1]};
                        const u32 a_part[2] = {a_words[2 * step], a_words[2 * step + 1]};
                        mma_k16<{{ tile.operand }}>(acc[fragment], w_part, a_part);
                    }
                }
            }
        }
#pragma unroll
        for (int fragment = 0; fragment < FRAGMENTS; ++fragment)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int m = 8 * fragment + lane % 4 * 2 + i % 2, n = column + fragment_row + i / 2 * 8;
                if (TILE_M % 8 == 0 || m < TILE_M) sums_{{ p.name }}[(part * TILE_M + m) * TILE_N + n] = acc[fragment][i];
            }
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
            for (int part = 1; part < SPLIT; ++part) {{ p.name }} += sums_{{ p.name }}[part * TILE_M * TILE_N + element];
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
