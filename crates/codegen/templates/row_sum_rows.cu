{%- if parts > 1 %}
    const int part = int(block / TILES);
    const i64 all = B * T{% if inner > 1 %} * {{ inner }}{% endif %}, share = (all + {{ parts }} * TILE_K - 1) / ({{ parts }} * TILE_K) * TILE_K;
    const i64 begin = part * share, end = begin + share < all ? begin + share : all;
{%- else %}
    const i64 begin = 0, end = B * T{% if inner > 1 %} * {{ inner }}{% endif %};
{%- endif %}