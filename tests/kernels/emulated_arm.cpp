// Runs the chain kernel of another processor on what comes in by standard input, and gives back the outer maps: a
// program of its own, for an emulator. All numbers are int64, and bytes come after their number.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include SPACTE_KERNEL

namespace {

int64_t number() {
  int64_t value;
  if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(2);
  return value;
}

std::vector<char> bytes() {
  std::vector<char> read(number());
  if (!read.empty() && std::fread(read.data(), read.size(), 1, stdin) != 1) std::exit(3);
  return read;
}

double real() {
  const std::vector<char> eight = bytes();
  double value;
  std::memcpy(&value, eight.data(), sizeof value);
  return value;
}

void run_chain() {
  const int64_t layer_count = number(), map_count = number(), copies_in = number(), copies_out = number(), images = number();
  const int64_t kind = number();
  std::vector<int64_t> copies(2 * (copies_in + copies_out));
  for (auto& map : copies) map = number();
  std::vector<std::vector<char>> kept;
  const auto pointer = [&] {
    kept.push_back(bytes());
    return kept.back().empty() ? nullptr : kept.back().data();
  };
  kept.reserve(3 * layer_count + map_count);
  std::vector<Layer> layers(layer_count);
  for (auto& layer : layers) {
    layer.weight = pointer();
    layer.scale = reinterpret_cast<const float*>(pointer());
    layer.bias = reinterpret_cast<const float*>(pointer());
    layer.other_scale = real();
    for (int64_t* field = &layer.channels; field <= &layer.target; ++field) *field = number();
  }
  std::vector<Map> maps(map_count);
  for (auto& map : maps) {
    map.data = pointer();
    for (int64_t* field = &map.channels; field <= &map.border; ++field) *field = number();
  }
  std::vector<char> scratch(spacte_chain_scratch(layers.data(), layer_count, maps.data(), map_count, kind));
  spacte_chain(layers.data(), layer_count, maps.data(), map_count, copies.data(), copies_in, copies_out, images, 1, scratch.data(),
               kind);
  for (size_t i = 0; i < maps.size(); ++i)
    if (maps[i].data) std::fwrite(maps[i].data, kept[3 * layer_count + i].size(), 1, stdout);
}

void run_linear() {
  const std::vector<char> rows = bytes(), weight = bytes(), bias = bytes();
  const int64_t count = number(), inputs = number(), outputs = number();
  std::vector<float> made(count * outputs);
  const auto floats = [](const std::vector<char>& of) { return reinterpret_cast<const float*>(of.data()); };
  spacte_linear(floats(rows), floats(weight), floats(bias), made.data(), count, inputs, outputs);
  std::fwrite(made.data(), made.size() * sizeof(float), 1, stdout);
}

}  // namespace

int main(int, char** arguments) {
  arguments[1][0] == 'c' ? run_chain() : run_linear();
  return 0;
}
