{%- if parts > 1 %}
const i64 first = block / {{ parts }}{% if rows > 1 %} * {{ rows }}{% endif %};
const int begin = (int)(block % {{ parts }}) * {{ share }};
{%- else %}
const i64 first = block{% if rows > 1 %} * {{ rows }}{% endif %};
{%- endif %}
for (int item = tid; item < {{ rows * share }}; item += {{ threads }}) {
{%- if rows > 1 %}
    const i64 row = first + item / {{ share }};
    const int elem = item % {{ share }};
    if (row >= B * T) break;
{%- elif parts > 1 %}
    const i64 row = first;
    const int elem = begin + item;
    if (elem >= {{ elements }}) break;
{%- else %}
    const i64 row = first;
    const int elem = item;
{%- endif %}
    float sum = 0.0f;
{{ find | trim_end | indent(prefix="    ", first=true) }}
    {{ to }}[row * {{ elements }} + elem] = from_f32<{{ element }}>(sum);
}
