// ---------------------------------------------------------------------------------------------------------
// Files of tensors: safetensors, a header in JSON and the elements behind it
// ---------------------------------------------------------------------------------------------------------

// A file that is read.
class TensorFile {
  public:
    struct Tensor {
        std::string type;  // F32, BF16, ...
        std::vector<std::uint64_t> shape;
        std::uint64_t begin = 0, end = 0;  // bytes behind the header
    };

    explicit TensorFile(const std::string& path) : path(path), file(path, std::ios::binary) {
        if (!file) fail("cannot read %s: %s", path.c_str(), std::strerror(errno));
        file.seekg(0, std::ios::end);
        const auto size = static_cast<std::uint64_t>(file.tellg());
        unsigned char length[8] = {};
        file.seekg(0);
        file.read(reinterpret_cast<char*>(length), 8);
        std::uint64_t bytes = 0;
        for (int i = 7; i >= 0; --i) bytes = bytes << 8 | length[i];
        if (!file || bytes > size - 8 || bytes > (100u << 20)) fail("%s is no safetensors file", path.c_str());
        header.resize(bytes);
        file.read(&header[0], static_cast<std::streamsize>(bytes));
        start = 8 + bytes;
        members([&](const std::string& name) {
            if (name == "__metadata__") return skip();
            Tensor tensor;
            members([&](const std::string& what) {
                if (what == "dtype") {
                    tensor.type = text();
                } else if (what == "shape") {
                    tensor.shape = numbers();
                } else if (what == "data_offsets") {
                    const std::vector<std::uint64_t> ends = numbers();
                    if (ends.size() != 2 || ends[0] > ends[1] || ends[1] > size - start)
                        fail("%s: `%s` lies outside of the file", this->path.c_str(), name.c_str());
                    tensor.begin = ends[0];
                    tensor.end = ends[1];
                } else {
                    skip();
                }
            });
            tensors[name] = tensor;
        });
    }

    const Tensor* find(const std::string& name) const {
        const auto found = tensors.find(name);
        return found == tensors.end() ? nullptr : &found->second;
    }

    // The bytes of a tensor, which are as many as its type and shape say.
    std::vector<unsigned char> bytes(const std::string& name, std::size_t of_element) {
        const Tensor& tensor = tensors.at(name);
        std::uint64_t want = of_element;
        for (const std::uint64_t extent : tensor.shape)
            if (__builtin_mul_overflow(want, extent, &want)) want = UINT64_MAX;
        if (tensor.end - tensor.begin != want)
            fail("%s: `%s` has %llu bytes, its shape says otherwise", path.c_str(), name.c_str(),
                 static_cast<unsigned long long>(tensor.end - tensor.begin));
        std::vector<unsigned char> out(want);
        file.seekg(static_cast<std::streamoff>(start + tensor.begin));
        file.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(want));
        if (!file) fail("cannot read `%s` in %s: %s", name.c_str(), path.c_str(), std::strerror(errno));
        return out;
    }

  private:
    // The header, read once from its beginning to its end.
    char next() {
        while (at < header.size() && std::strchr(" \t\r\n", header[at])) ++at;
        return at < header.size() ? header[at] : '\0';
    }
    void take(char c) {
        if (next() != c) fail("%s: its header ends or goes wrong at byte %zu", path.c_str(), at);
        ++at;
    }
    std::string text() {
        std::string out;
        take('"');
        while (at < header.size() && header[at] != '"') {
            if (header[at] == '\\') ++at;
            if (at < header.size()) out += header[at++];
        }
        take('"');
        return out;
    }
    std::vector<std::uint64_t> numbers() {
        std::vector<std::uint64_t> out;
        take('[');
        while (next() >= '0' && next() <= '9') {
            std::uint64_t number = 0;
            for (; at < header.size() && header[at] >= '0' && header[at] <= '9'; ++at)
                if (__builtin_mul_overflow(number, 10u, &number) ||
                    __builtin_add_overflow(number, static_cast<unsigned>(header[at] - '0'), &number))
                    fail("%s: a number in its header is too large", path.c_str());
            out.push_back(number);
            if (next() == ',') ++at;
        }
        take(']');
        return out;
    }
    template <typename Member>
    void members(const Member& member) {
        take('{');
        while (next() == '"') {
            const std::string name = text();
            take(':');
            member(name);
            if (next() == ',') ++at;
        }
        take('}');
    }
    // Texts by name, or one text.
    void skip() {
        if (next() == '{')
            members([&](const std::string&) { skip(); });
        else
            text();
    }

    std::string path;
    std::ifstream file;
    std::string header;
    std::size_t at = 0;
    std::uint64_t start = 0;
    std::map<std::string, Tensor> tensors;
};

inline const char* name_of(Type type) {
    return type == Type::f32 ? "F32" : type == Type::bf16 ? "BF16" : type == Type::f16 ? "F16" : "I32";
}

inline std::string in_words(const std::vector<std::uint64_t>& shape) {
    std::string out = "[";
    for (const std::uint64_t extent : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(extent);
    return out + "]";
}

inline void Model::upload(const std::string& path) {
    if (CONSTANTS.empty()) return;
    const Driver& d = driver();
    std::uint64_t total = 0;
    for (const Constant& constant : CONSTANTS)
        total += aligned(bytes_of(constant.type, product(constant.shape), 1, constant.name));
    TensorFile file(path);
    for (const Constant& constant : CONSTANTS) {
        const TensorFile::Tensor* tensor = file.find(constant.name);
        if (!tensor)
            fail("%s has no tensor `%s`: are these the weights of %s?", path.c_str(), constant.name,
                 "{{ model_in_text }}");
        if (tensor->type != name_of(constant.type) || tensor->shape != constant.shape)
            fail("%s: `%s` is %s of %s, it should be %s of %s", path.c_str(), constant.name,
                 in_words(tensor->shape).c_str(), tensor->type.c_str(), in_words(constant.shape).c_str(),
                 name_of(constant.type));
    }
    weights_memory = Memory(context, total, "weights");
    const Current current(context);
    Address at = weights_memory.address();
    for (const Constant& constant : CONSTANTS) {
        const std::vector<unsigned char> bytes = file.bytes(constant.name, bytes_of(constant.type));
        d.check(d.to_device(at, bytes.data(), bytes.size(), nullptr), "copy `%s` to the device", constant.name);
        d.check(d.wait(nullptr), "copy `%s` to the device", constant.name);
        constants.push_back(at);
        at += aligned(bytes.size());
    }
}

// Tensors of f32 or i32 to be written.
struct Written {
    std::string name;
    Type type;
    std::vector<std::uint64_t> shape;
    std::vector<std::uint32_t> words;
};

inline void write_tensors(const std::string& path, const std::vector<Written>& tensors) {
    std::string header = "{";
    std::uint64_t end = 0;
    for (const Written& tensor : tensors) {
        const std::uint64_t begin = end;
        end += 4 * tensor.words.size();
        header += (header.size() > 1 ? ",\"" : "\"") + tensor.name + "\":{\"dtype\":\"" + name_of(tensor.type) +
                  "\",\"shape\":" + in_words(tensor.shape) + ",\"data_offsets\":[" + std::to_string(begin) + "," +
                  std::to_string(end) + "]}";
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::ofstream file(path, std::ios::binary);
    for (int i = 0; i < 8; ++i) file.put(static_cast<char>(header.size() >> 8 * i & 0xff));
    file << header;
    for (const Written& tensor : tensors)
        file.write(reinterpret_cast<const char*>(tensor.words.data()),
                   static_cast<std::streamsize>(4 * tensor.words.size()));
    file.flush();
    if (!file) fail("cannot write %s: %s", path.c_str(), std::strerror(errno));
}
