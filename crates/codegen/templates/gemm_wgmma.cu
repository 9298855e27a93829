{
    // Y[row, column] = sum over inner of x(row, inner) * w(column, inner) on the tensor cores (wgmma, f32 accumulators). Two warpgroups take turns at
    // tiles of {{ tile.rows }} rows, so that one multiplies while the other writes its results. One thread of a third brings what
    // they multiply: a ring of {{ tile.stages }} stages, each {{ tile.depth }} of the sum, that copies fill and products empty. Blocks go from
    // tile to tile, whatever the number of blocks.
    typedef {{ tile.operand }} Operand;
    constexpr int CONSUMERS = 2, STAGES = {{ tile.stages }}, TILE_M = {{ tile.rows }}, TILE_K = {{ tile.depth }};
    constexpr int SLABS = TILE_M / 64;  // of 64 rows, as instructions take them
    constexpr int A_BYTES = TILE_M * TILE_K * 2, STAGE_BYTES = A_BYTES + {{ tile.columns }} * TILE_K * 2;
    const int lane = tid % 32, warp = tid / 32 % 4, group = tid / 128;
    const i64 rows = {{ rows }};
    // Swizzled tiles begin at a multiple of 1,024 bytes.
    char* const stages = reinterpret_cast<char*>(smem) + (1024 - smem_u32(smem) % 1024) % 1024;  // [STAGES][x tile, then w tiles]
    u64* const full = reinterpret_cast<u64*>(stages + STAGES * STAGE_BYTES);
    u64* const empty = full + STAGES;
    u64* const before_turn = empty + STAGES;  // [CONSUMERS]: the warpgroup before this one has started its last product
    if (tid == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(full + stage, 1);
            mbarrier_init(empty + stage, 1);
        }
        for (int consumer = 0; consumer < CONSUMERS; ++consumer) mbarrier_init(before_turn + consumer, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    // Tiles go down {{ tile.group }} tiles of rows before they go on to the next columns, so that the blocks at work at one
    // time read the same rows and columns.
    const u32 row_tiles = u32((rows + TILE_M - 1) / TILE_M);
{%- for l in lanes %}
    constexpr u32 COLUMN_TILES_{{ loop.index0 }} = {{ l.column_tiles }};
    const u32 end_{{ loop.index0 }} = {% if not loop.first %}end_{{ loop.index0 - 1 }} + {% endif %}row_tiles * COLUMN_TILES_{{ loop.index0 }};
{%- endfor %}
    auto locate = [&](u32 tile, u32 column_tiles, u32& row_tile, u32& column_tile) {
        const u32 band = tile / ({{ tile.group }} * column_tiles), inside = tile % ({{ tile.group }} * column_tiles);
        const u32 height = min(u32({{ tile.group }}), row_tiles - {{ tile.group }} * band);
        row_tile = {{ tile.group }} * band + inside % height;
        column_tile = inside / height;
    };
    if (group == CONSUMERS) {
        registers_release<{{ tile.producer_registers }}>();
        if (tid == 128 * CONSUMERS) {
            int stage = 0;
            u32 parity = 0;
            for (u32 tile = blockIdx.x; tile < end_{{ lanes | length - 1 }}; tile += gridDim.x) {
                u32 row_tile, column_tile;
{%- for l in lanes %}
                {% if not loop.first %}else {% endif %}{% if not loop.last %}if (tile < end_{{ loop.index0 }}) {% endif %}{
                    locate(tile{% if not loop.first %} - end_{{ loop.index0 - 1 }}{% endif %}, COLUMN_TILES_{{ loop.index0 }}, row_tile, column_tile);
                    const int row0 = int(row_tile * TILE_M), column0 = int(column_tile) * {{ l.tile_columns }};
{%- for pass in l.passes %}
                    for (int inner = 0; inner < {{ pass.depth }}; inner += TILE_K) {
                        char* const a_tile = stages + stage * STAGE_BYTES;
                        char* const w_tile = a_tile + A_BYTES;
                        mbarrier_wait(empty + stage, parity ^ 1);
                        mbarrier_arrive_expecting(full + stage, A_BYTES + {{ pass.products | length }} * {{ l.tile_columns }} * TILE_K * 2);
                        tensor_load_2d(a_tile, {{ pass.x_map }}, full + stage, inner, row0);
{%- for p in pass.products %}
{%- if p.w_layout == "kn" %}
#pragma unroll
                        for (int n = 0; n < {{ l.tile_columns }}; n += 64) tensor_load_2d(w_tile + ({{ loop.index0 }} * {{ l.tile_columns }} + n) * TILE_K * 2, {{ p.w_map }}, full + stage, column0 + n, inner);
{%- elif l.runs %}
                        tensor_load_5d(w_tile + {{ loop.index0 }} * {{ l.tile_columns }} * TILE_K * 2, {{ p.w_map }}, full + stage, inner, column0 / 32);
{%- else %}
                        tensor_load_2d(w_tile + {{ loop.index0 }} * {{ l.tile_columns }} * TILE_K * 2, {{ p.w_map }}, full + stage, inner, column0);
{%- endif %}
{%- endfor %}
                        if (++stage == STAGES) stage = 0, parity ^= 1;
                    }
{%- endfor %}
                }
{%- endfor %}
            }
        }
    } else {
        registers_claim<{{ tile.consumer_registers }}>();
        int turn = 0;
        u32 turn_parity = group == 0;  // nobody is before the first one's first turn
        u32 filled = 0;                // stages that the tiles before this one took
        for (u32 tile = blockIdx.x; tile < end_{{ lanes | length - 1 }}; tile += gridDim.x) {
            const bool mine = turn == group;
            int stage = int(filled % STAGES);
            u32 parity = filled / STAGES % 2;
            filled += {% for l in lanes %}{% if not loop.last %}tile < end_{{ loop.index0 }} ? {{ l.steps }} : {% else %}{{ l.steps }}{% endif %}{% endfor %};
            if (++turn == CONSUMERS) turn = 0;
            if (!mine) continue;
            // The parity of a stage tells a fill from the one before it only: no earlier ones may be under way.
            mbarrier_wait(before_turn + group, turn_parity);
            turn_parity ^= 1;
            u32 row_tile, column_tile;
{%- for l in lanes %}
            {% if not loop.first %}else {% endif %}{% if not loop.last %}if (tile < end_{{ loop.index0 }}) {% endif %}{
                constexpr int COLUMNS = {{ l.columns }}, TILE_N = {{ l.tile_columns }};
                locate(tile{% if not loop.first %} - end_{{ loop.index0 - 1 }}{% endif %}, COLUMN_TILES_{{ loop.index0 }}, row_tile, column_tile);
                const i64 row0 = i64(row_tile) * TILE_M;
                const int column0 = int(column_tile) * TILE_N;
{%- if l.setup %}
                {{ l.setup | indent(width=16) }}
{%- endif %}
{%- for p in l.products %}
                float acc_{{ p.name }}[SLABS][TILE_N / 2] = {};
{%- endfor %}
{%- for pass in l.passes %}
                {
                    int before = 0;
                    // Without a loop, as for a short sum, the compiler would put products behind each other.
                    const int depth = untold({{ pass.depth }});
#pragma unroll 1
                    for (int inner = 0; inner < depth; inner += TILE_K) {
                        const char* const a_tile = stages + stage * STAGE_BYTES;
                        const char* const w_tile = a_tile + A_BYTES;
                        const u64 a_place = operand_tile(a_tile, 16);
{%- for p in pass.products %}
                        const u64 w_place_{{ loop.index0 }} = operand_tile(w_tile + {{ loop.index0 }} * TILE_N * TILE_K * 2, {% if p.w_layout == "kn" %}64 * TILE_K * 2{% else %}16{% endif %});
{%- endfor %}
                        mbarrier_wait(full + stage, parity);
                        warpgroup_fence();
#pragma unroll
                        for (int part = 0; part < TILE_K / 16; ++part) {
#pragma unroll
                            for (int slab = 0; slab < SLABS; ++slab) {
{%- for p in pass.products %}
                                wgmma_n{{ l.tile_columns }}<Operand, {% if p.w_layout == "kn" %}true{% else %}false{% endif %}>(acc_{{ p.name }}[slab], a_place + slab * (64 * TILE_K * 2 / 16) + part * 2, w_place_{{ loop.index0 }} + part * {% if p.w_layout == "kn" %}128{% else %}2{% endif %});
{%- endfor %}
                            }
                        }
                        warpgroup_commit();
                        // The products before these are done: their stage can be filled again.
                        warpgroup_wait<1>();
                        if (inner > 0 && tid % 128 == 0) mbarrier_arrive(empty + before);
                        before = stage;
                        if (++stage == STAGES) stage = 0, parity ^= 1;
                    }
{%- if loop.last %}
                    if (tid % 128 == 0) mbarrier_arrive(before_turn + (group + 1) % CONSUMERS);
{%- endif %}
                    warpgroup_wait<0>();
                    if (tid % 128 == 0) mbarrier_arrive(empty + before);
                }
{%- endfor %}
#pragma unroll
                for (int eight = 0; eight < 2 * SLABS; ++eight) {
                    const int slab = eight / 2, half = eight % 2;
                    const i64 row = row0 + slab * 64 + warp * 16 + half * 8 + lane / 4;
                    if (row < rows) {
{%- if l.row_prologue %}
                        {{ l.row_prologue | indent(width=24) }}
{%- endif %}
#pragma unroll
                        for (int part = 0; part < TILE_N / {{ l.run * 4 }}; ++part) {
                            const int column_first = column0 + part * {{ l.run * 4 }} + lane % 4 * {{ l.run }};
                            if (COLUMNS % TILE_N == 0 || column_first < COLUMNS) {
{%- if l.run_before %}
                                {{ l.run_before | indent(width=32) }}
{%- endif %}
#pragma unroll
                                for (int nth = 0; nth < {{ l.run }}; ++nth) {
                                    const int column = column_first + nth;
{%- if l.whole %}
                                    (void)column;
{%- else %}
                                    if (column >= COLUMNS) continue;
{%- endif %}
{%- for p in l.products %}
                                    const float {{ p.name }} = acc_{{ p.name }}[slab][(part * {{ l.run }} + nth / 2 * 2) * 2 + half * 2 + nth % 2];
{%- endfor %}
                                    // ---- epilogue of element (row, column)
                                    {{ l.epilogue | indent(width=36) }}
                                    // ---- end of epilogue
                                }
{%- if l.run_after %}
                                {{ l.run_after | indent(width=32) }}
{%- endif %}
                            }
                        }
                    }
                }
            }
{%- endfor %}
        }
    }
}
