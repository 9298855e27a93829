
    float* const a_{{ p.name }} = reinterpret_cast<float*>(smem) + {{ p.a_offset }};             // [TILE_M][{{ p.depth }}]
    float* const sums_{{ p.name }} = reinterpret_cast<float*>(smem) + {{ p.sums_offset }};       // [{{ p.parts }}][TILE_M][TILE_N]
{%- if p.rows_of is number %}
    // The same rows.
{%- elif p.stage %}
    {
        float* const xs = a_{{ p.name }};
        // ---- stage: xs[row - row0][inner] = a(row, inner), rows past the end 0
        {{ p.stage | indent(width=8) }}
        // ---- end of stage
    }
{%- else %}
    for (int chunk = tid; chunk < TILE_M * {{ p.depth }} / {{ p.x_vector }}; chunk += THREADS) {
        constexpr int DEPTH = {{ p.depth }}, VEC = {{ p.x_vector }};
        const i64 row = row0 + chunk / (DEPTH / VEC);
        const int inner_chunk = chunk % (DEPTH / VEC) * VEC;
        float x_regs[VEC] = {};
{%- if p.x %}
        if (row < rows) load_vec({{ p.x }} + row * i64({{ p.x_stride }}) + inner_chunk, x_regs);
{%- endif %}
{%- if p.prologue %}
#pragma unroll
        for (int nth = 0; nth < VEC; ++nth) {
            const int inner = inner_chunk + nth;
            float activation = x_regs[nth];
            if (row < rows) {
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
