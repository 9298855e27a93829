const i64 batch = block / {{ parts }};
const i64 first = block % {{ parts }} * {{ share }};
for (i64 item = first + tid; item < first + {{ share }}; item += {{ threads }}) {
{%- for copy in copies %}
    if (item >= {{ copy.begin }} && item < {{ copy.end }}) {
        const i64 elem = item - {{ copy.begin }};
        {{ copy.to }}[batch * {{ copy.row }} + elem] = {{ copy.from }}[(batch * T + T - 1) * {{ copy.row }} + elem];
    }
{%- endfor %}
}
