{%- for tail in tails %}

// The last {{ tail.width }} rows of {{ tail.pointer }}, for the next run; each block copies a share.
for (i64 item = share * {{ threads }} + tid; item < {{ tail.width * tail.row }}; item += shares * {{ threads }}) {
    const i64 t = T - {{ tail.width }} + item / {{ tail.row }};
    {{ tail.new }}[batch * {{ tail.width * tail.row }} + item] = t < 0 ? {{ tail.old }}[batch * {{ tail.width * tail.row }} + item + T * {{ tail.row }}] : to_f32({{ tail.pointer }}[(batch * T + t) * {{ tail.row }} + item % {{ tail.row }}]);
}
{%- endfor %}
