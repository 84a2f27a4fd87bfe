// replay FOLDER NAME...: replays vectors with onnxruntime's C++ API; what is told: see replay.py.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using nlohmann::json;

struct Kind { ONNXTensorElementDataType type; size_t size; };

const std::map<std::string, Kind> KINDS{
    {"float32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4}}, {"float64", {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8}},
    {"int32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4}},   {"uint32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 4}},
    {"int64", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8}},   {"uint64", {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 8}},
    {"bool", {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1}}};

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

double number(const char* at, const std::string& dtype, size_t i) {
  if (dtype == "float32") return reinterpret_cast<const float*>(at)[i];
  if (dtype == "float64") return reinterpret_cast<const double*>(at)[i];
  if (dtype == "int32") return reinterpret_cast<const int32_t*>(at)[i];
  if (dtype == "uint32") return reinterpret_cast<const uint32_t*>(at)[i];
  if (dtype == "int64") return static_cast<double>(reinterpret_cast<const int64_t*>(at)[i]);
  if (dtype == "uint64") return static_cast<double>(reinterpret_cast<const uint64_t*>(at)[i]);
  return at[i];
}

// The largest difference of one call in units of what is allowed; the seed's last bit is changed where `moved` is 1.
double furthest(Ort::Session& session, const std::string& folder, const json& index, const json& call, int64_t moved) {
  const double infinite = std::numeric_limits<double>::infinity();
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<std::vector<char>> bytes;
  std::vector<Ort::Value> feeds;
  std::vector<std::string> inputs, outputs;
  for (auto& [name, told] : call["feeds"].items()) {
    auto shape = told["shape"].get<std::vector<int64_t>>();
    auto& data = bytes.emplace_back(read(folder + "/" + told["file"].get<std::string>()));
    if (name == "seed") *reinterpret_cast<int64_t*>(data.data()) ^= moved;
    auto type = KINDS.at(told["dtype"]).type;
    // Of a tensor without elements too: vector's data() may be null there, which onnxruntime takes.
    feeds.push_back(Ort::Value::CreateTensor(memory, data.data(), data.size(), shape.data(), shape.size(), type));
    inputs.push_back(name);
  }
  for (auto& [name, told] : call["outputs"].items()) outputs.push_back(name);
  std::vector<const char*> in, out;
  for (auto& name : inputs) in.push_back(name.c_str());
  for (auto& name : outputs) out.push_back(name.c_str());
  auto given = session.Run(Ort::RunOptions{}, in.data(), feeds.data(), in.size(), out.data(), out.size());
  double worst = 0;
  for (size_t k = 0; k < out.size(); ++k) {
    const json& told = call["outputs"][outputs[k]];
    const std::string dtype = told["dtype"];
    auto info = given[k].GetTensorTypeAndShapeInfo();
    auto right = read(folder + "/" + told["file"].get<std::string>());
    if (info.GetElementType() != KINDS.at(dtype).type || info.GetShape() != told["shape"].get<std::vector<int64_t>>()) return infinite;
    const char* data = static_cast<const char*>(given[k].GetTensorRawData());
    for (size_t i = 0; i < right.size() / KINDS.at(dtype).size; ++i) {
      double y = number(data, dtype, i), e = number(right.data(), dtype, i);
      if (y == e || (std::isnan(y) && std::isnan(e))) continue;
      double ratio = std::abs(y - e) / (index["atol"].get<double>() + index["rtol"].get<double>() * std::abs(e));
      worst = std::max(worst, std::isfinite(ratio) ? ratio : infinite);
    }
  }
  return worst;
}

int main(int argc, char** argv) try {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  for (int n = 2; n < argc; ++n) {
    const std::string folder = std::string(argv[1]) + "/" + argv[n];
    Ort::Session session(env, (folder + ".onnx").c_str(), options);
    const json index = json::parse(read(folder + "/vectors.json"));
    double worst = 0, control = 0;
    for (auto& call : index["calls"]) {
      worst = std::max(worst, furthest(session, folder, index, call, 0));
      control = std::max(control, furthest(session, folder, index, call, 1));
    }
    // JSON has no infinity: nlohmann's library writes null.
    std::cout << json{{"artifact", argv[n]}, {"worst", worst}, {"same", worst == 0}, {"control", control}} << std::endl;
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
