// sample FORECASTER.onnx READINGS.csv: mean, std and 90 % interval of what follows the last window of readings.
//
// g++ -std=c++17 -I/usr/include/onnxruntime sample.cpp -lonnxruntime -o sample     (Debian 13: libonnxruntime-dev)
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <vector>

double quantile(const std::vector<float>& sorted, double q) {  // linear between samples, as numpy's
  double at = q * (sorted.size() - 1);
  size_t i = std::min<size_t>(at, sorted.size() - 2);
  return sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]);
}

int main(int argc, char** argv) try {
  if (argc != 3) return std::fprintf(stderr, "usage: sample FORECASTER.onnx READINGS.csv\n"), 2;
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, argv[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  auto input = session.GetInputNameAllocated(0, allocator), output = session.GetOutputNameAllocated(0, allocator);
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // [batch, steps, features]
  if (shape.size() != 3 || shape[1] < 1) return std::fprintf(stderr, "%s takes no windows\n", argv[1]), 1;
  shape[0] = 1;

  std::vector<float> readings;
  std::ifstream file(argv[2]);
  for (std::string line; std::getline(file, line);) {  // lines of numbers; a header is passed over
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream numbers(line);
    for (float number; numbers >> number;) readings.push_back(number);
  }
  const size_t window = shape[1] * shape[2];
  if (readings.size() < window) return std::fprintf(stderr, "%s is shorter than a window\n", argv[2]), 1;
  float* last = readings.data() + readings.size() - window;

  int64_t seed = 7, rows = 0, samples = 100, first = 0, one = 1;
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto whole = [&](int64_t& number) { return Ort::Value::CreateTensor<int64_t>(memory, &number, 1, &one, 1); };
  const char *names[] = {input.get(), "seed", "rows", "num_samples", "first_sample"}, *outputs[] = {output.get()};
  Ort::Value feeds[] = {Ort::Value::CreateTensor<float>(memory, last, window, shape.data(), 3), whole(seed), whole(rows),
                        whole(samples), whole(first)};
  auto answer = session.Run(Ort::RunOptions{}, names, feeds, 5, outputs, 1);
  const float* drawn = answer[0].GetTensorData<float>();  // [samples, 1, ...]
  const size_t size = answer[0].GetTensorTypeAndShapeInfo().GetElementCount() / samples;
  for (size_t i = 0; i < size; ++i) {
    std::vector<float> sorted;
    double mean = 0, squares = 0;
    for (int64_t t = 0; t < samples; ++t) sorted.push_back(drawn[t * size + i]), mean += sorted.back() / samples;
    for (float number : sorted) squares += (number - mean) * (number - mean);
    std::sort(sorted.begin(), sorted.end());
    std::printf("%s[%zu] mean %.6g std %.6g 90 %% of the samples from %.6g to %.6g\n", outputs[0], i, mean,
                std::sqrt(squares / (samples - 1)), quantile(sorted, 0.05), quantile(sorted, 0.95));
  }
} catch (const Ort::Exception& error) { return std::fprintf(stderr, "%s\n", error.what()), 1; }
