// Every entry of the table is the sum of the rows whose id it is, in their order: a warp has {% if tile.entries == 1 %}one entry{% else %}{{ tile.entries }} entries{% endif %}
// and {{ tile.channels }} elements of each, and looks at the ids of all rows, 32 at a time.
constexpr int ENTRIES = {{ tile.entries }}, CHANNELS = {{ tile.channels }}, OWN = CHANNELS / 32;
constexpr int CHANNEL_TILES = ({{ channels }} + CHANNELS - 1) / CHANNELS, GROUPS = ({{ entries }} + ENTRIES - 1) / ENTRIES;
const int lane = tid % 32, warp = tid / 32;
i64 unit = block * {{ warps }} + warp;
if (unit < i64(GROUPS) * CHANNEL_TILES{% if batch > 1 %} * {{ batch }}{% endif %}) {
{%- if decode %}
    {{ decode | indent }}
{%- endif %}
    const int column0 = int(unit % CHANNEL_TILES) * CHANNELS + lane;
    const int entry0 = int(unit / CHANNEL_TILES) * ENTRIES;
    // A lane has its elements to itself: it adds to them without waiting for the others.
    float* const sums = smem + warp * ENTRIES * CHANNELS + lane;  // [ENTRIES][CHANNELS]
    for (int item = 0; item < ENTRIES * OWN; ++item) sums[item * 32] = 0.0f;
    const i64 rows = B * T;
    for (i64 row0 = 0; row0 < rows; row0 += 32) {
        int id = -1;
        {
            const i64 row = row0 + lane;
            if (row < rows) id = {{ id }};
        }
        u32 found = lanes_where(id >= entry0 && id < entry0 + ENTRIES);
        // Rows that are found are loaded some at a time, and added one after the other.
        while (found != 0) {
            int entries[4];
            float added[4][OWN];
#pragma unroll
            for (int nth = 0; nth < 4; ++nth) {
                const int from = found != 0 ? lowest_bit(found) : 0;
                const int found_id = from_lane(id, from);
                entries[nth] = found != 0 ? found_id - entry0 : -1;
                found &= found - 1;
                const i64 row = row0 + from;
#pragma unroll
                for (int own = 0; own < OWN; ++own) {
                    const int column = column0 + own * 32;
                    added[nth][own] = 0.0f;
                    if (entries[nth] >= 0 && column < {{ channels }}) {
                        {{ load | indent(width=24) }}
                    }
                }
            }
#pragma unroll
            for (int nth = 0; nth < 4; ++nth) {
                if (entries[nth] >= 0) {
#pragma unroll
                    for (int own = 0; own < OWN; ++own) sums[entries[nth] * CHANNELS + own * 32] += added[nth][own];
                }
            }
        }
    }
    for (int entry = 0; entry < ENTRIES; ++entry) {
#pragma unroll
        for (int own = 0; own < OWN; ++own) {
            const int column = column0 + own * 32;
            if (entry0 + entry < {{ entries }} && column < {{ channels }}) {
                const float value = sums[entry * CHANNELS + own * 32];
                {{ store }}
            }
        }
    }
}
