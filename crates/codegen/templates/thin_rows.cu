{%- if not p.direct %}
    {{ tile.operand }}* const a_{{ p.name }} = reinterpret_cast<{{ tile.operand }}*>(smem) + {{ p.a_offset }};      // [TILE_M][{{ p.pitch }}]
{%- endif %}
{%- if p.rows_of is number and not p.direct %}
    // The same rows.
{%- elif p.stage %}
    {
        {{ tile.operand }}* const xs = a_{{ p.name }};
        // ---- stage: xs[(row - row0) * {{ p.pitch }} + inner] = a(row, inner), rows past the end 0
        {{ p.stage | indent(width=8) }}
        // ---- end of stage
{%- if p.depth % 128 != 0 %}
        for (int at = tid; at < TILE_M * ({{ p.pitch }} - {{ p.depth }}); at += THREADS) {
            constexpr int REST = {{ p.pitch }} - {{ p.depth }};
            xs[at / REST * {{ p.pitch }} + {{ p.depth }} + at % REST] = from_f32<{{ tile.operand }}>(0.0f);
        }
{%- endif %}
    }
{%- elif tile.brought %}
    {
        // Rows as they lie in memory, zeros behind their ends.
        constexpr int PIECES_OF_ROW = {{ p.pitch }} / 8, ROUNDS = (TILE_M * PIECES_OF_ROW + THREADS - 1) / THREADS;
        u32 words[ROUNDS][4] = {};
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            const int at = round * THREADS + tid, tile_row = at / PIECES_OF_ROW, inner = at % PIECES_OF_ROW * 8;
            if (tile_row < TILE_M && row0 + tile_row < rows && inner < {{ p.depth }}) load_words({{ p.x }} + (row0 + tile_row) * i64({{ p.x_stride }}) + inner, words[round]);
        }
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            const int at = round * THREADS + tid;
            if (at < TILE_M * PIECES_OF_ROW) store_words(a_{{ p.name }} + at * 8, words[round]);
        }
    }
{%- elif not p.direct %}
    for (int chunk = tid; chunk < TILE_M * {{ p.pitch }} / {{ p.x_vector }}; chunk += THREADS) {
        constexpr int DEPTH = {{ p.depth }}, PITCH = {{ p.pitch }}, VEC = {{ p.x_vector }};
        const i64 row = row0 + chunk / (PITCH / VEC);
        const int inner_chunk = chunk % (PITCH / VEC) * VEC;
        float x_regs[VEC] = {};
{%- if p.x %}
        if (row < rows && inner_chunk < DEPTH) load_vec({{ p.x }} + row * i64({{ p.x_stride }}) + inner_chunk, x_regs);
{%- endif %}
{%- if p.prologue %}
#pragma unroll
        for (int nth = 0; nth < VEC; ++nth) {
            const int inner = inner_chunk + nth;
            float activation = x_regs[nth];
            if (row < rows && inner < DEPTH) {
                // ---- prologue: activation = a(row, inner)
                {{ p.prologue | indent(width=16) }}
                // ---- end of prologue
            }
            x_regs[nth] = activation;
        }
{%- endif %}
        store_vec(a_{{ p.name }} + chunk * VEC, x_regs);
    }
{%- endif %}
