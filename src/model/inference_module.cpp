#include "rillkv/inference_module.h"

#include <ATen/ATen.h>
#include <torch/serialize/archive.h>

#include "rillkv/error.h"

namespace rillkv {

void InferenceModule::save(torch::serialize::OutputArchive& archive) const {
  for (const auto& item : named_parameters(/*recurse=*/false)) {
    const at::Tensor& own = item.value();
    const bool whole = own.nbytes() == own.storage().nbytes();
    archive.write(item.key(), whole ? own : own.clone());
  }
  for (const auto& child : named_children()) {
    torch::serialize::OutputArchive part(archive.compilation_unit());
    child.value()->save(part);
    archive.write(child.key(), part);
  }
}

void InferenceModule::load(torch::serialize::InputArchive& archive) {
  at::NoGradGuard no_grad;
  for (auto& item : named_parameters(/*recurse=*/false)) {
    at::Tensor read;
    RILLKV_CHECK(archive.try_read(item.key(), read), "loading parameter '", item.key(),
                 "': expected it in the archive, got none");
    at::Tensor& own = item.value();
    RILLKV_CHECK(read.sizes() == own.sizes(), "loading parameter '", item.key(),
                 "': expected shape ", own.sizes(), ", got ", read.sizes());
    own.copy_(read);
  }
  for (auto& child : named_children()) {
    torch::serialize::InputArchive part;
    RILLKV_CHECK(archive.try_read(child.key(), part), "loading module '", child.key(),
                 "': expected it in the archive, got none");
    child.value()->load(part);
  }
}

void InferenceModule::to(torch::Device device, torch::Dtype dtype, bool) {
  to(device);
  to(dtype);
}

void InferenceModule::to(torch::Dtype dtype, bool) {
  for (const auto& item : named_parameters()) {
    RILLKV_CHECK(item.value().scalar_type() == dtype, "cannot convert '", item.key(), "' from ",
                 item.value().scalar_type(), " to ", dtype,
                 ": make the module with that dtype and load it");
  }
}

void InferenceModule::to(torch::Device device, bool) {
  for (const auto& item : named_parameters()) {
    RILLKV_CHECK(item.value().device() == device, "cannot move '", item.key(), "' from ",
                 item.value().device(), " to ", device, ": make the module on that device");
  }
}

}  // namespace rillkv
