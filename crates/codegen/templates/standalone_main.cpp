// ---------------------------------------------------------------------------------------------------------
// The program: a run, from a file or from a seed
// ---------------------------------------------------------------------------------------------------------

namespace {

using namespace {{ space }};

const char USAGE[] =
    "{{ file }}: {{ model_in_text }}, compiled by fusec for {{ arch }}\n"
    "\n"
    "  --device N          which GPU (0)\n"
    "  --weights FILE      weights.safetensors, by default the one beside this program\n"
    "  --input FILE        the inputs by name, [B, T, ...] (safetensors)\n"
    "  --batch B --time T --seed S\n"
    "                      without --input: sequences (1), tokens of each (16), inputs drawn from a seed (0)\n"
    "  --pieces N,N,..     the run in pieces of so many tokens, each going on where the last one ended\n"
    "  --output FILE       where the outputs go, by name, f32 (safetensors)\n"
    "  --inputs-out FILE   where the inputs go, as --input takes them\n"
    "  --repeat N          run so often more, and print how long a run takes\n";

struct Options {
    int device = 0;
    std::string weights, input, output, inputs_out;
    std::int64_t batch = 1, time = 16, repeat = 0;
    std::uint64_t seed = 0;
    std::vector<std::int64_t> pieces;
};

std::int64_t number(const std::string& flag, const char* text, std::int64_t least) {
    char* end = nullptr;
    errno = 0;
    const long long value = std::strtoll(text, &end, 10);
    // More than any machine has, of anything; products of two fit.
    constexpr long long MOST = INT32_MAX;
    if (end == text || *end || errno || value < least || value > MOST)
        fail("%s %s: a number from %lld to %lld is needed", flag.c_str(), text, static_cast<long long>(least), MOST);
    return value;
}

Options read_options(int count, char** words) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string flag = words[i];
        if (flag == "--help" || flag == "-h") {
            std::fputs(USAGE, stdout);
            std::exit(0);
        }
        if (i + 1 == count) fail("%s: unknown, or without its value\n\n%s", flag.c_str(), USAGE);
        const char* value = words[++i];
        if (flag == "--device") options.device = static_cast<int>(number(flag, value, 0));
        else if (flag == "--weights") options.weights = value;
        else if (flag == "--input") options.input = value;
        else if (flag == "--output") options.output = value;
        else if (flag == "--inputs-out") options.inputs_out = value;
        else if (flag == "--batch") options.batch = number(flag, value, 1);
        else if (flag == "--time") options.time = number(flag, value, 1);
        else if (flag == "--seed") options.seed = static_cast<std::uint64_t>(number(flag, value, 0));
        else if (flag == "--repeat") options.repeat = number(flag, value, 0);
        else if (flag == "--pieces") {
            std::string piece;
            for (const char* c = value;; ++c) {
                if (*c && *c != ',') {
                    piece += *c;
                    continue;
                }
                options.pieces.push_back(number(flag, piece.c_str(), 1));
                piece.clear();
                if (!*c) break;
            }
        } else {
            fail("%s: unknown\n\n%s", flag.c_str(), USAGE);
        }
    }
    return options;
}

// The directory of this program.
std::string beside(const char* name) {
    char path[4096];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
    const std::string program(path, length > 0 ? static_cast<std::size_t>(length) : 0);
    const std::size_t end = program.rfind('/');
    return (end == std::string::npos ? std::string() : program.substr(0, end + 1)) + name;
}

// A tensor of the host: numbers, or ids.
struct Host {
    std::vector<float> numbers;
    std::vector<std::int32_t> ids;
};

// All rows of an input as a file has them.
Host read_input(TensorFile& file, const Port& port, std::int64_t& batch, std::int64_t& time) {
    const TensorFile::Tensor* tensor = file.find(port.name);
    if (!tensor) fail("the input has no tensor `%s`", port.name);
    std::vector<std::uint64_t> row;
    if (tensor->shape.size() >= 2) row.assign(tensor->shape.begin() + 2, tensor->shape.end());
    if (tensor->shape.size() < 2 || row != port.shape)
        fail("the input `%s` is %s: it should be [B, T] and %s", port.name, in_words(tensor->shape).c_str(),
             in_words(port.shape).c_str());
    const auto b = static_cast<std::int64_t>(tensor->shape[0]), t = static_cast<std::int64_t>(tensor->shape[1]);
    if (b < 1 || t < 1 || (batch && (b != batch || t != time)))
        fail("the input `%s` has B=%lld and T=%lld, others have B=%lld and T=%lld", port.name, static_cast<long long>(b),
             static_cast<long long>(t), static_cast<long long>(batch), static_cast<long long>(time));
    batch = b;
    time = t;
    const std::string& type = tensor->type;
    const std::size_t of_element = type == "I64" ? 8 : type == "I32" || type == "F32" ? 4 : 2;
    const bool integers = type == "I64" || type == "I32";
    const bool wanted = port.type == Type::i32;
    if (integers != wanted || !(integers || type == "F32" || type == "BF16" || type == "F16"))
        fail("the input `%s` is of type %s: it should be %s", port.name, type.c_str(),
             wanted ? "I32 or I64" : "F32, BF16 or F16");
    const std::vector<unsigned char> bytes = file.bytes(port.name, of_element);
    Host host;
    for (std::size_t i = 0; i < bytes.size(); i += of_element) {
        std::int64_t id = 0;
        std::uint32_t word = 0;
        std::uint16_t half = 0;
        std::memcpy(of_element == 8 ? static_cast<void*>(&id) : of_element == 4 ? static_cast<void*>(&word) : &half,
                    &bytes[i], of_element);
        if (type == "I32") id = static_cast<std::int32_t>(word);
        if (integers) {
            if (id < 0 || id >= port.ids)
                fail("the input `%s` has the id %lld: ids are from 0 to below %lld", port.name,
                     static_cast<long long>(id), static_cast<long long>(port.ids));
            host.ids.push_back(static_cast<std::int32_t>(id));
        } else {
            host.numbers.push_back(type == "F32" ? float_of(word) : type == "BF16" ? from_bf16(half) : from_f16(half));
        }
    }
    return host;
}

// Ids that are equally likely, and numbers of mean 0 and deviation 1.
Host drawn_input(const Port& port, std::int64_t rows, std::uint64_t& seed) {
    const auto draw = [&seed] {
        std::uint64_t z = seed += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return static_cast<double>((z ^ z >> 31) >> 11) * 0x1p-53;
    };
    Host host;
    for (std::uint64_t i = 0; i < product(port.shape) * static_cast<std::uint64_t>(rows); ++i)
        if (port.type == Type::i32)
            host.ids.push_back(static_cast<std::int32_t>(draw() * static_cast<double>(port.ids)));
        else
            host.numbers.push_back(static_cast<float>((2 * draw() - 1) * std::sqrt(3.0)));
    return host;
}

// Some tokens of every sequence, as kernels read them.
std::vector<unsigned char> encoded(const Host& host, const Port& port, std::int64_t batch, std::int64_t time,
                                   std::int64_t first, std::int64_t count) {
    const std::uint64_t row = product(port.shape);
    std::vector<unsigned char> out;
    const auto add = [&out](const void* word, std::size_t bytes) {
        out.insert(out.end(), static_cast<const unsigned char*>(word), static_cast<const unsigned char*>(word) + bytes);
    };
    for (std::int64_t b = 0; b < batch; ++b)
        for (std::uint64_t i = 0; i < row * static_cast<std::uint64_t>(count); ++i) {
            const std::size_t at = static_cast<std::uint64_t>(b * time + first) * row + i;
            if (port.type == Type::i32) {
                add(&host.ids[at], 4);
            } else if (port.type == Type::f32) {
                add(&host.numbers[at], 4);
            } else {
                const std::uint16_t half =
                    port.type == Type::bf16 ? to_bf16(host.numbers[at]) : to_f16(host.numbers[at]);
                add(&half, 2);
            }
        }
    return out;
}

// Rows of an output.
std::uint64_t rows_of(const Port& port, std::int64_t batch, std::int64_t time) {
    return static_cast<std::uint64_t>(port.rows == Rows::tokens      ? batch * time
                                      : port.rows == Rows::sequences ? batch
                                                                     : 1);
}

void print(const Port& port, const Written& tensor) {
    double sum = 0, squares = 0, least = INFINITY, most = -INFINITY;
    for (const std::uint32_t word : tensor.words) {
        const double x = float_of(word);
        sum += x;
        squares += x * x;
        least = std::min(least, x);
        most = std::max(most, x);
    }
    const double n = std::max<double>(1, static_cast<double>(tensor.words.size())), mean = sum / n;
    std::printf("%-20s %-20s mean %10.4f  deviation %10.4f  smallest %10.4f  largest %10.4f\n", port.name,
                in_words(tensor.shape).c_str(), mean, std::sqrt(std::max(0.0, squares / n - mean * mean)), least, most);
}

void run_program(const Options& options) {
    const Driver& d = driver();
    Model model(options.device, options.weights.empty() ? beside("weights.safetensors") : options.weights);
    const Current current(model.device_context());
    Stream stream = nullptr;
    d.check(d.create_stream(&stream, 1), "create a stream");

    std::int64_t batch = options.batch, time = options.time;
    std::vector<Host> hosts;
    if (options.input.empty()) {
        std::uint64_t seed = options.seed;
        for (const Port& port : INPUTS) hosts.push_back(drawn_input(port, batch * time, seed));
    } else {
        batch = time = 0;
        TensorFile file(options.input);
        for (const Port& port : INPUTS) hosts.push_back(read_input(file, port, batch, time));
    }
    std::vector<std::int64_t> pieces = options.pieces;
    if (pieces.empty()) pieces.push_back(time);
    const std::int64_t sum = std::accumulate(pieces.begin(), pieces.end(), std::int64_t{0});
    if (sum != time)
        fail("--pieces are %lld tokens together, the inputs have %lld", static_cast<long long>(sum),
             static_cast<long long>(time));

    // Room for the longest piece.
    std::vector<Memory> inputs_memory, outputs_memory;
    for (const Port& port : INPUTS)
        inputs_memory.emplace_back(
            model.device_context(),
            bytes_of(port.type, product(port.shape), static_cast<std::uint64_t>(batch * time), port.name), port.name);
    std::vector<Written> results;
    for (const Port& port : OUTPUTS) {
        const std::uint64_t rows = rows_of(port, batch, time);
        outputs_memory.emplace_back(model.device_context(), bytes_of(port.type, product(port.shape), rows, port.name),
                                    port.name);
        Written result{port.name, Type::f32, {static_cast<std::uint64_t>(batch), rows / static_cast<std::uint64_t>(batch)}, {}};
        result.shape.insert(result.shape.end(), port.shape.begin(), port.shape.end());
        result.words.resize(rows * product(port.shape));
        results.push_back(result);
    }
    Inputs inputs;
    Outputs outputs;
    {% for port in inputs %}inputs.{{ port.id }} = inputs_memory[{{ loop.index0 }}].address();
    {% endfor -%}
    {% for port in outputs %}outputs.{{ port.id }} = outputs_memory[{{ loop.index0 }}].address();
    {% endfor %}
    State state = model.state(batch, stream);
    std::int64_t first = 0;
    for (const std::int64_t piece : pieces) {
        for (std::size_t i = 0; i < INPUTS.size(); ++i) {
            const std::vector<unsigned char> bytes = encoded(hosts[i], INPUTS[i], batch, time, first, piece);
            d.check(d.to_device(inputs_memory[i].address(), bytes.data(), bytes.size(), stream), "copy the input `%s`",
                    INPUTS[i].name);
            d.check(d.wait(stream), "copy the input `%s`", INPUTS[i].name);
        }
        model.run(stream, state, piece, inputs, outputs);
        d.check(d.wait(stream), "run %lld tokens", static_cast<long long>(piece));
        for (std::size_t i = 0; i < OUTPUTS.size(); ++i) {
            const Port& port = OUTPUTS[i];
            const std::uint64_t row = product(port.shape), got = rows_of(port, batch, piece);
            std::vector<unsigned char> bytes(got * row * bytes_of(port.type));
            d.check(d.to_host(bytes.data(), outputs_memory[i].address(), bytes.size(), stream),
                    "copy the output `%s`", port.name);
            d.check(d.wait(stream), "copy the output `%s`", port.name);
            for (std::uint64_t at = 0; at < got * row; ++at) {
                std::uint32_t word = 0;
                std::memcpy(&word, &bytes[at * bytes_of(port.type)], bytes_of(port.type));
                const auto half = static_cast<std::uint16_t>(word);
                if (port.type == Type::bf16) word = bits_of(from_bf16(half));
                if (port.type == Type::f16) word = bits_of(from_f16(half));
                // Tokens of a piece go where they belong in the whole.
                const std::uint64_t of_sequence = static_cast<std::uint64_t>(piece) * row;
                const std::uint64_t to = port.rows != Rows::tokens ? at
                                                                   : at / of_sequence * static_cast<std::uint64_t>(time) * row +
                                                                         static_cast<std::uint64_t>(first) * row + at % of_sequence;
                results[i].words[to] = word;
            }
        }
        first += piece;
    }
    std::printf("%s on device %d (%s): B=%lld, T=%lld, next position %lld\n", "{{ model_in_text }}", options.device,
                model.device_name(), static_cast<long long>(batch), static_cast<long long>(time),
                static_cast<long long>(state.position()));
    for (std::size_t i = 0; i < OUTPUTS.size(); ++i) print(OUTPUTS[i], results[i]);
    if (!options.output.empty()) write_tensors(options.output, results);
    if (!options.inputs_out.empty()) {
        std::vector<Written> given;
        for (std::size_t i = 0; i < INPUTS.size(); ++i) {
            Written tensor{INPUTS[i].name, INPUTS[i].type == Type::i32 ? Type::i32 : Type::f32,
                           {static_cast<std::uint64_t>(batch), static_cast<std::uint64_t>(time)}, {}};
            tensor.shape.insert(tensor.shape.end(), INPUTS[i].shape.begin(), INPUTS[i].shape.end());
            for (const float x : hosts[i].numbers) tensor.words.push_back(bits_of(x));
            for (const std::int32_t id : hosts[i].ids) tensor.words.push_back(static_cast<std::uint32_t>(id));
            given.push_back(tensor);
        }
        write_tensors(options.inputs_out, given);
    }
    if (options.repeat > 0) {
        const std::int64_t piece = pieces.back();
        model.run(stream, state, piece, inputs, outputs);
        d.check(d.wait(stream), "run %lld tokens", static_cast<long long>(piece));
        const auto began = std::chrono::steady_clock::now();
        for (std::int64_t i = 0; i < options.repeat; ++i) model.run(stream, state, piece, inputs, outputs);
        const std::chrono::duration<double, std::micro> submitted = std::chrono::steady_clock::now() - began;
        d.check(d.wait(stream), "run %lld tokens", static_cast<long long>(piece));
        const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
        const auto runs = static_cast<double>(options.repeat);
        std::printf("%lld runs of %lld tokens: %.1f us each, %.1f us to submit one\n",
                    static_cast<long long>(options.repeat), static_cast<long long>(piece), took.count() / runs,
                    submitted.count() / runs);
    }
    d.destroy_stream(stream);
}

}  // namespace

int main(int count, char** words) {
    try {
        run_program(read_options(count, words));
        return 0;
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "error: this machine has not enough memory: use a smaller batch or a shorter run\n");
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 2;
    }
}
