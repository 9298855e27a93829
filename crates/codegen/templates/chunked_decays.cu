{%- if value_factor %}
        float v_factor = 0.0f;      // of tokens past the end
{%- endif %}
        if (tid < CHUNK) {
            const int token = tid, at = token < tokens ? token : tokens - 1;
            {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
            const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
{%- if tokens %}
            {
                // ---- token_values of token t
                {{ tokens | indent(width=16) }}
                // ----
            }
{%- endif %}
{%- if per_token %}
            float decay_element = 1.0f;
            // ---- decay_element of token t
            {{ decay | indent(width=12) }}
            // ----
            decays[token] = token < tokens ? decay_element : 1.0f;
{%- endif %}
{%- if value_factor %}
            if (token < tokens) {
                // ---- v_factor of token t: what its row of values is multiplied by
                {{ value_factor | indent(width=16) }}
                // ----
            }
{%- endif %}
        }
{%- if per_token %}
        __syncwarp();   // the tokens of a sub-chunk are lanes of one warp
        if (tid < CHUNK) {
            const int token = tid, own = token % SUB, first = token - own;
            float carried = {% if value_factor %}v_factor{% else %}1.0f{% endif %}, before = 1.0f;
#pragma unroll
            for (int later = 0; later < SUB; ++later) {
                const float decay_element = decays[first + later];
                carried *= later > own ? decay_element : 1.0f;
                before *= later < own ? decay_element : 1.0f;
{%- if lefts > 0 %}
                between[(first + later) * L_PITCH + own] = later >= own ? carried : 0.0f;
{%- endif %}
            }
            until[token] = carried;
{%- if lefts > 0 %}
            since[token] = {% if together and not before %}before * decays[token]{% else %}before{% endif %};
{%- endif %}
            if (own == SUB - 1) totals[token / SUB] = before * decays[token];
        }
{%- endif %}