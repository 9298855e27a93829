{%- for tail in tails %}

// The last {{ tail.width }} rows of {{ tail.pointer }}, for the next run: each block copies a share, {% if tail.vector > 1 %}{{ tail.vector }} elements{% else %}an element{% endif %} at a time. Rows before
// this run are what an earlier one has kept.
for (i64 nth = share * {{ threads }} + tid; nth < {{ tail.copies }}; nth += shares * {{ threads }}) {
    const i64 item = nth{% if tail.vector > 1 %} * {{ tail.vector }}{% endif %}, from = (T - {{ tail.width }}) * {{ tail.row }} + item;
    float kept[{{ tail.vector }}];
    if (from < 0) load_vec({{ tail.old }} + batch * {{ tail.width * tail.row }} + item + T * {{ tail.row }}, kept);
    else load_vec({{ tail.pointer }} + batch * T * {{ tail.row }} + from, kept);
    store_vec({{ tail.new }} + batch * {{ tail.width * tail.row }} + item, kept);
}
{%- endfor %}
