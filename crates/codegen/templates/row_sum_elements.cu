// Each element of the result is a sum over all rows{% if inner > 1 %} and {{ inner }} elements of each{% endif %}: {{ tile.across }} threads along the elements{% if tile.vector > 1 %}, {{ tile.vector }} of each{% endif %},
// the others share the rows.
constexpr int ELEMENTS = {{ elements }}, VECTOR = {{ tile.vector }}, ACROSS = {{ tile.across }}, DOWN = {{ threads }} / ACROSS;
constexpr int TILES = (ELEMENTS + ACROSS * VECTOR - 1) / (ACROSS * VECTOR);
const int across = tid % ACROSS, down = tid / ACROSS;
const int column = (int(block % TILES) * ACROSS + across) * VECTOR;
{%- if parts > 1 %}
const int part = int(block / TILES);
const i64 all = B * T{% if inner > 1 %} * {{ inner }}{% endif %}, share = (all + {{ parts - 1 }}) / {{ parts }};
const i64 begin = part * share, end = begin + share < all ? begin + share : all;
{%- else %}
const i64 begin = 0, end = B * T{% if inner > 1 %} * {{ inner }}{% endif %};
{%- endif %}
float total[VECTOR] = {};
if (column < ELEMENTS) {
#pragma unroll 4
    for (i64 at = begin + down; at < end; at += DOWN) {
{%- if reads_row %}
        const i64 row = at{% if inner > 1 %} / {{ inner }}{% endif %};
{%- endif %}
{%- if reads_inner %}
        const int inner = int(at % {{ inner }});
{%- endif %}
        {{ loads | indent(width=8) }}
#pragma unroll
        for (int nth = 0; nth < VECTOR; ++nth) total[nth] += {{ term }};
    }
}
// What threads have of an element is added in halves: always in the same order.
float* const totals = smem;  // [DOWN][ACROSS * VECTOR]
#pragma unroll
for (int nth = 0; nth < VECTOR; ++nth) totals[(down * ACROSS + across) * VECTOR + nth] = total[nth];
#pragma unroll
for (int half = DOWN / 2; half > 0; half /= 2) {
    __syncthreads();
    if (down < half) {
#pragma unroll
        for (int nth = 0; nth < VECTOR; ++nth) totals[(down * ACROSS + across) * VECTOR + nth] += totals[((down + half) * ACROSS + across) * VECTOR + nth];
    }
}
if (down == 0 && column < ELEMENTS) {
#pragma unroll
    for (int nth = 0; nth < VECTOR; ++nth) {
        const i64 element = column + nth;
        const float value = totals[across * VECTOR + nth];
        {{ store }}
    }
}
