{%- if rows > 1 %}
const i64 runs = (T + {{ rows - 1 }}) / {{ rows }};
{%- elif row_runs %}
const i64 runs = T;
{%- endif %}
{%- for axis in grid %}
const int {{ axis.name }} = (int)(block % {{ axis.blocks }}){% if axis.tile > 1 %} * {{ axis.tile }}{% endif %};
block /= {{ axis.blocks }};
{%- endfor %}
{%- if row_runs %}
const i64 batch = block / runs;
const i64 t_begin = block % runs{% if rows > 1 %} * {{ rows }}{% endif %};
const i64 t_end = {% if rows > 1 %}t_begin + {{ rows }} < T ? t_begin + {{ rows }} : T{% else %}t_begin + 1{% endif %};
{%- elif segments %}
const int segment = (int)(block % {{ walked }});
const i64 batch = block / {{ walked }};
const i64 segment_rows = (T + {{ segments * run - 1 }}) / {{ segments * run }}{% if run > 1 %} * {{ run }}{% endif %};
const i64 t_begin = segment * segment_rows < T ? segment * segment_rows : T;
const i64 t_end = t_begin + segment_rows < T ? t_begin + segment_rows : T;
{%- else %}
const i64 batch = block;
const i64 t_begin = 0;
const i64 t_end = T;
{%- endif %}
{{ code | trim_end }}
