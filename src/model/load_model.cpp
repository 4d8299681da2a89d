// load_model: config.json and the tensors beside it become a model.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

#include "core/cpu_kernels.h"
#include "model/checkpoint_weights.h"
#include "rillkv/error.h"
#include "rillkv/llama.h"
#include "rillkv/log.h"
#include "rillkv/quotes.h"

namespace rillkv {
namespace {

constexpr char kPrefix[] = "model.", kTable[] = "model.embed_tokens.weight",
               kHead[] = "lm_head.weight";

bool has_prefix(const std::string& name) { return name.rfind(kPrefix, 0) == 0; }

/// Whether two tensors hold the same bytes. No more than a few MB of them stay resident.
bool same_bytes(const Checkpoint& checkpoint, const std::string& a, const std::string& b) {
  const at::Tensor first = checkpoint.tensor(a), second = checkpoint.tensor(b);
  if (first.scalar_type() != second.scalar_type() || first.sizes() != second.sizes()) return false;
  const auto* x = static_cast<const char*>(first.const_data_ptr());
  const auto* y = static_cast<const char*>(second.const_data_ptr());
  constexpr size_t kStep = size_t{16} << 20;
  bool same = true;
  for (size_t at = 0; same && at < first.nbytes(); at += kStep) {
    same = std::memcmp(x + at, y + at, std::min(kStep, first.nbytes() - at)) == 0;
    checkpoint.release(a);
    checkpoint.release(b);
  }
  return same;
}

/// One line for all tensors that are not among `used`.
void warn_of_unused(const Checkpoint& checkpoint, const std::set<std::string>& used,
                    const std::string& folder) {
  constexpr size_t kNamed = 3;
  std::string named;
  size_t count = 0;
  for (const std::string& name : checkpoint.names()) {
    // Old checkpoints hold what the configuration says anyway.
    if (used.count(name) > 0 || name.find("rotary_emb.inv_freq") != name.npos) continue;
    if (++count <= kNamed) named += (count == 1 ? "" : ", ") + in_quotes(name);
  }
  if (count == 0) return;
  log(LogLevel::kWarning, str_cat(folder, ": ", count, count == 1 ? " tensor is" : " tensors are",
                                  " not used by this model: ", named,
                                  count > kNamed ? str_cat(" and ", count - kNamed, " more") : ""));
}

}  // namespace

std::string stored_name(const Checkpoint& checkpoint, const std::string& name) {
  const std::string other =
      has_prefix(name) ? name.substr(sizeof(kPrefix) - 1) : std::string(kPrefix) + name;
  return !checkpoint.contains(name) && checkpoint.contains(other) ? other : name;
}

bool head_is_tied(const ModelConfig& config, const Checkpoint& checkpoint,
                  const std::string& folder) {
  const std::string head = stored_name(checkpoint, kHead), table = stored_name(checkpoint, kTable);
  const bool has_head = checkpoint.contains(head);
  if (!config.tie_word_embeddings) {
    if (has_head) return false;
    log(LogLevel::kWarning,
        str_cat(folder, ": no ", in_quotes(kHead), " is there: ", in_quotes(table),
                " is the head, too, although config.json "
                "does not say tie_word_embeddings"));
    return true;
  }
  if (!has_head || same_bytes(checkpoint, table, head)) return true;
  log(LogLevel::kWarning, str_cat(folder, ": ", in_quotes(head), " is not ", in_quotes(table),
                                  ": it is used, although config.json says tie_word_embeddings"));
  return false;
}

void for_each_weight(
    const ModelConfig& c,
    const std::function<void(const std::string&, const std::vector<int64_t>&)>& visit) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const int64_t hidden = c.hidden_size, inner = c.intermediate_size;
  visit("model.embed_tokens.weight", {c.vocab_size, hidden});
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = str_cat("model.layers.", i, ".");
    const auto linear = [&](const char* name, int64_t out, int64_t in, bool bias) {
      visit(layer + name + ".weight", {out, in});
      if (bias) visit(layer + name + ".bias", {out});
    };
    visit(layer + "input_layernorm.weight", {hidden});
    linear("self_attn.q_proj", q, hidden, c.qkv_bias);
    linear("self_attn.k_proj", kv, hidden, c.qkv_bias);
    linear("self_attn.v_proj", kv, hidden, c.qkv_bias);
    linear("self_attn.o_proj", hidden, q, c.o_bias);
    visit(layer + "post_attention_layernorm.weight", {hidden});
    linear("mlp.gate_proj", inner, hidden, c.mlp_bias);
    linear("mlp.up_proj", inner, hidden, c.mlp_bias);
    linear("mlp.down_proj", hidden, inner, c.mlp_bias);
  }
  visit("model.norm.weight", {hidden});
  if (!c.tie_word_embeddings) visit("lm_head.weight", {c.vocab_size, hidden});
}

LlamaModel load_model(const std::string& folder, const LoadOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ModelConfig config = ModelConfig::load(folder);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  // A config.json that lies about a size must not cost that much memory. A head that is there must
  // fit, whatever config.json says of it.
  ModelConfig stored = config;
  stored.tie_word_embeddings = !checkpoint.contains(stored_name(checkpoint, kHead));
  std::set<std::string> used;
  for_each_weight(stored, [&](const std::string& weight, const std::vector<int64_t>& shape) {
    const std::string name = stored_name(checkpoint, weight);
    const std::vector<int64_t> found = checkpoint.shape(name);
    RILLKV_CHECK(found == shape, folder, ": weight '", name, "': config.json says shape ",
                 at::IntArrayRef(shape), ", the file has ", at::IntArrayRef(found));
    used.insert(name);
  });
  config.tie_word_embeddings = head_is_tied(config, checkpoint, folder);
  warn_of_unused(checkpoint, used, folder);
  LlamaModel model(config, options.dtype, options.device);
  model->read(checkpoint);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  log(LogLevel::kDebug,
      str_cat("loaded ", folder, " as ", options.dtype, " in ", seconds.count(), " s, weights ",
              model->packed() ? "packed" : "not packed", ", kernels ", cpu_kernels().name, ", ",
              at::get_num_threads(), " threads"));
  return model;
}

}  // namespace rillkv
