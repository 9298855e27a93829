{
    // y[row, column] = sum over inner of a(row, inner) * w(column, inner) for few rows on tensor cores: the weights,
    // streamed once from memory to registers, are the wide operand. {{ tile.rows }} row(s) and {{ tile.columns }} columns per block.
    //
    // A warp has 16 columns and takes KEYS terms of the sum at a time. Which ones a lane holds is the same for both operands, so it
    // need not be the order of the instruction: a lane reads two pieces of 16 bytes, beside those of its neighbours. Activations that lie in
    // memory as they are needed go to registers as well; what is computed first lies in shared memory.
    constexpr int TILE_M = {{ tile.rows }}, TILE_N = {{ tile.columns }}, WARPS = {{ tile.warps }}, THREADS = 32 * WARPS;
    constexpr int SPLIT = {{ tile.split }}, FRAGMENTS = (TILE_M + 7) / 8, KEYS = 64;
    constexpr int COLUMNS = {{ columns }}, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 rows = {{ rows }};
    const i64 row0 = i64({{ block }} / COLUMN_TILES) * TILE_M;
    const int column0 = int({{ block }} % COLUMN_TILES) * TILE_N;
    // SPLIT warps share the columns of a warp, each with its part of the sum.
    const int part = warp % SPLIT, warp_column = warp / SPLIT * 16, fragment_row = lane / 4, fragment_inner = lane % 4 * 8;
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
    constexpr int TOGETHER = {{ tile.together }};
    int columns[2];
#pragma unroll
    // Columns past the end read the last one again; nothing of them is kept.
    for (int half = 0; half < 2; ++half) columns[half] = min(column0 + warp_column + fragment_row + 8 * half, COLUMNS - 1);
{%- if early %}
    grid_dependency_wait();
    grid_dependency_launch();
{%- endif %}
{% for p in products %}
{%- include "thin_rows.cu" %}
    float* const sums_{{ p.name }} = reinterpret_cast<float*>(smem) + {{ p.sums_offset }};      // [SPLIT][TILE_M][TILE_N]
{% endfor %}
{%- if staged %}
    __syncthreads();
{%- endif %}
{% for p in products %}
    {
        constexpr int DEPTH = {{ p.depth }};
        float acc[FRAGMENTS][4] = {};
        for (int inner0 = part * KEYS; inner0 < DEPTH; inner0 += SPLIT * KEYS * TOGETHER) {
            u32 w_loads[TOGETHER][2][8];
#pragma unroll
            for (int load = 0; load < TOGETHER; ++load)
#pragma unroll
                for (int piece = 0; piece < 2; ++piece)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int first = inner0 + load * SPLIT * KEYS + fragment_inner + 32 * piece;
                        u32 (&words)[4] = reinterpret_cast<u32 (&)[4]>(w_loads[load][half][4 * piece]);
                        words[0] = words[1] = words[2] = words[3] = 0;
                        if (first < DEPTH) load_words_stream({{ p.w }} + i64(columns[half]) * {{ p.w_stride }} + first, words);
                    }
{%- if p.direct %}
            u32 a_words[TOGETHER][FRAGMENTS][8];
#pragma unroll
            for (int load = 0; load < TOGETHER; ++load)
#pragma unroll
                for (int piece = 0; piece < 2; ++piece) {
                    const int first = inner0 + load * SPLIT * KEYS + fragment_inner + 32 * piece;
#pragma unroll
                    for (int fragment = 0; fragment < FRAGMENTS; ++fragment) {
                        const int tile_row = 8 * fragment + fragment_row;
                        u32 (&words)[4] = reinterpret_cast<u32 (&)[4]>(a_words[load][fragment][4 * piece]);
                        words[0] = words[1] = words[2] = words[3] = 0;
                        if (first < DEPTH && (TILE_M % 8 == 0 || tile_row < TILE_M) && row0 + tile_row < rows)
                            load_words({{ p.x }} + (row0 + tile_row) * {{ p.x_stride }} + first, words);
                    }
                }
{%- endif %}
#pragma unroll
            for (int load = 0; load < TOGETHER; ++load) {
                const int inner = inner0 + load * SPLIT * KEYS;
                if (inner >= DEPTH) break;
                const u32 (&w_words)[2][8] = w_loads[load];
#pragma unroll
                for (int fragment = 0; fragment < FRAGMENTS; ++fragment) {
{%- if p.direct %}
                    const u32 (&a_row)[8] = a_words[load][fragment];
{%- else %}
                    u32 a_row[8] = {};
                    const int tile_row = 8 * fragment + fragment_row;
                    if (TILE_M % 8 == 0 || tile_row < TILE_M) {
                        const {{ tile.operand }}* const a_row_start = a_{{ p.name }} + tile_row * {{ p.pitch }} + inner + fragment_inner;
                        load_words(a_row_start, reinterpret_cast<u32 (&)[4]>(a_row[0]));
                        load_words(a_row_start + 32, reinterpret_cast<u32 (&)[4]>(a_row[4]));
                    }
{%- endif %}
#pragma unroll
                    for (int step = 0; step < 4; ++step) {
                        const u32 w_part[4] = {w_words[0][2 * step], w_words[1][2 * step],
                                               w_words[0][2 * step + 1], w_words[1][2 * step + 1]};
                        const u32 a_part[2] = {a_row[2 * step], a_row[2 * step + 1]};
                        mma_k16<{{ tile.operand }}>(acc[fragment], w_part, a_part);
                    }
                }
            }
        }
#pragma unroll
        for (int fragment = 0; fragment < FRAGMENTS; ++fragment)
#pragma unroll
            for (int nth = 0; nth < 4; ++nth) {
                const int tile_row = 8 * fragment + lane % 4 * 2 + nth % 2, tile_column = warp_column + fragment_row + nth / 2 * 8;
                if (TILE_M % 8 == 0 || tile_row < TILE_M) sums_{{ p.name }}[(part * TILE_M + tile_row) * TILE_N + tile_column] = acc[fragment][nth];
            }
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
            for (int part = 1; part < SPLIT; ++part) {{ p.name }} += sums_{{ p.name }}[part * TILE_M * TILE_N + element];
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
