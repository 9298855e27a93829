
#pragma unroll
        for (int ti = 0; ti < {{ s.upper }}_PER_THREAD; ++ti) {
            const int chunk = tid + ti * THREADS;
            const int column = {{ s.first }} + chunk % {{ s.chunks }} * {{ s.vector }};
            const i64 at = begin + step * TILE_K + chunk / {{ s.chunks }}, row = at{% if inner > 1 %} / {{ inner }}{% endif %};
{%- if s.inner %}
            const int inner = int(at % {{ inner }});
{%- endif %}
#pragma unroll
            for (int nth = 0; nth < {{ s.vector }}; ++nth) {{ s.name }}_next[ti][nth] = 0.0f;
            if (chunk < {{ s.upper }}_CHUNKS && at < end && column < {{ s.columns }}) {
                {{ s.load | indent(width=16) }}
            }
        }