// What {{ parts }} parts of the rows have each summed, added in the order of the rows.
const i64 element = block * {{ threads }} + tid;
if (element < {{ elements }}) {
    float value = {{ from }}[element];
#pragma unroll 8
    for (int part = 1; part < {{ parts }}; ++part) value += {{ from }}[part * i64({{ elements }}) + element];
    {{ store }}
}
