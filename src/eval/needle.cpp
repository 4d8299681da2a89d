#include "rillkv/eval/needle.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <sstream>
#include <system_error>

#include "rillkv/error.h"
#include "rillkv/eval/metrics.h"
#include "rillkv/eval/performance.h"
#include "rillkv/files.h"
#include "src/eval/log_record.h"

namespace rillkv::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// splitmix64: the same numbers on every standard library, which <random>'s distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  /// Below n; the bias of the remainder is below n / 2^64.
  uint64_t below(uint64_t n) { return next() % n; }

 private:
  uint64_t state_;
};

constexpr std::array<const char*, 16> kPlaces = {
    "Aldermoor",  "Brackenhythe", "Corriemouth", "Dunlessock", "Eskerfield", "Fallowgate",
    "Greyhaven",  "Hollinsby",    "Inverlathe",  "Jarrowdene", "Kestrelby",  "Lowmarsh",
    "Merrowdale", "Northwold",    "Orlestone",   "Pennyfold"};

/// What a reply may say beside the answer, in tokens.
constexpr int64_t kWordsAround = 16;

/// Whether a text goes round in circles: of eight words or more fewer than half are different.
bool repeats_itself(std::string_view text) {
  std::istringstream words{std::string(text)};
  std::set<std::string> different;
  size_t count = 0;
  for (std::string word; words >> word; ++count) different.insert(word);
  return count >= 8 && 2 * different.size() < count;
}

std::vector<std::string> paragraphs_of(std::string_view text) {
  std::vector<std::string> paragraphs;
  std::string current;
  std::istringstream in{std::string(text)};
  for (std::string line; std::getline(in, line);) {
    const bool blank = line.find_first_not_of(" \t\r") == std::string::npos;
    if (!blank) current += (current.empty() ? "" : "\n") + line;
    if (blank && !current.empty()) paragraphs.push_back(std::move(current)), current.clear();
  }
  if (!current.empty()) paragraphs.push_back(std::move(current));
  return paragraphs;
}

/// The last position <= at where a sentence has ended, so that the needle splits none; 0 if none.
size_t sentence_boundary(const std::string& text, size_t at) {
  if (at >= text.size()) return text.size();
  for (size_t i = at; i > 0; --i) {
    const char before = text[i - 1];
    const bool space = text[i] == ' ' || text[i] == '\n';
    if (space && (before == '.' || before == '!' || before == '?')) return i;
    if (before == '\n' && text[i] == '\n') return i - 1;  // The end of a paragraph.
  }
  return 0;
}

std::string compose(const Needle& needle, const std::string& text, size_t at, bool chat) {
  std::string prompt = text.substr(0, at);
  if (!prompt.empty()) prompt += ' ';
  prompt += needle.fact;
  if (at < text.size() && text[at] != ' ' && text[at] != '\n') prompt += ' ';
  prompt += text.substr(at);
  prompt += "\n\nQuestion: " + needle.question;
  if (chat) return prompt;
  prompt += "\nAnswer:";
  if (!needle.lead.empty()) prompt += " " + needle.lead;
  return prompt;
}

std::string cell_key(const char* side, int64_t length, double depth, int64_t sample) {
  return str_cat(side, " length=", length, " depth=", depth, " sample=", sample);
}

const Needle& pick(const NeedleOptions& options, uint64_t seed, Needle& storage) {
  if (!options.needle.fact.empty()) return options.needle;
  storage = random_needle(seed);
  return storage;
}

Json run_cell(GenerationBackend& backend, const NeedleOptions& options, const Needle& needle,
              int64_t length, double depth) {
  GenerationRequest request;
  request.prompt = needle_prompt(backend, options, needle, length, depth);
  request.max_new_tokens = needle_new_tokens(backend, options, needle);
  // In a chat the reply starts afresh, with the lead; a plain prompt has ended with it.
  std::string before = " ";
  if (options.chat) before = needle.lead.empty() ? "" : needle.lead + " ";
  request.answer = backend.encode(before + needle.answer);
  request.distractor = backend.encode(before + needle.distractor);
  const Generation generation = backend.run(request);
  return {{"length", length},
          {"depth", depth},
          {"prompt_tokens", request.prompt.size()},
          {"answer", needle.answer},
          {"text", generation.text},
          {"score", needle_score(needle, generation.text)},
          {"cut_off", generation.reached_limit && answer_cut_off(needle, generation.text)},
          {"margin", generation.margin},
          {"answer_log_prob", generation.answer_log_prob},
          {"stats", to_json(generation.stats)}};
}

/// A mean that may be of nothing.
class Mean {
 public:
  void add(double value) {
    sum_ += value;
    ++count_;
  }
  void add(const Mean& other) {
    if (other.count_ > 0) add(other.value());
  }
  int64_t count() const { return count_; }
  double value() const { return sum_ / static_cast<double>(count_); }
  Json json() const { return count_ > 0 ? Json(value()) : Json(); }

 private:
  double sum_ = 0;
  int64_t count_ = 0;
};

/// One side of a cell over its samples, or of several cells.
struct Side {
  Mean score;  // of the samples that were not cut off
  Mean margin;
  int64_t cut_off = 0;
  int64_t samples = 0;
  int64_t prompt_tokens = 0;
  std::string text;  // of the first sample

  void add(const Side& cell) {
    score.add(cell.score);
    margin.add(cell.margin);
    cut_off += cell.cut_off;
    samples += cell.samples;
  }
  Json json() const {
    if (samples == 0) return {};
    return {{"score", score.json()}, {"margin", margin.json()}, {"cut_off", cut_off}};
  }
};

Side collect(const ResultLog& log, const char* side, int64_t length, double depth, int64_t samples,
             PerformanceSummary& performance) {
  Side cell;
  for (int64_t sample = 0; sample < samples; ++sample) {
    const Json* record = log.find(cell_key(side, length, depth, sample));
    if (record == nullptr) continue;
    read_record(str_cat(log.path().string(), ": ", cell_key(side, length, depth, sample)), [&] {
      const double score = record->at("score").get<double>();
      // A margin that is not a number must not pass for 0.
      cell.margin.add(record->at("margin").get<double>());
      if (record->at("cut_off").get<bool>()) {
        ++cell.cut_off;
      } else {
        cell.score.add(score);
      }
      if (++cell.samples == 1) {
        cell.prompt_tokens = record->at("prompt_tokens").get<int64_t>();
        cell.text = record->at("text").get<std::string>();
      }
      performance.add(run_stats_from_json(record->value("stats", Json::object())));
    });
  }
  return cell;
}

/// Whether the dense cache solves a length, by its cells; null if that cannot be said.
Json solvable_by(const std::vector<Side>& cells, double solved_score) {
  Mean lowest;  // of the cells, with 0 for what was cut off
  int64_t cut_off = 0;
  for (const Side& cell : cells) {
    if (cell.samples == 0) continue;
    const auto judged = static_cast<double>(cell.score.count());
    lowest.add(judged > 0 ? cell.score.value() * judged / static_cast<double>(cell.samples) : 0);
    cut_off += cell.cut_off;
  }
  if (lowest.count() == 0) return {};
  if (lowest.value() >= solved_score) return true;
  return cut_off > 0 ? Json() : Json(false);
}

constexpr const char* kCompressed = "compressed";
constexpr const char* kDense = "dense";

}  // namespace

Needle random_needle(uint64_t seed) {
  Random random(seed);
  const std::string place = kPlaces[random.below(kPlaces.size())];
  std::string answer, distractor;
  for (int i = 0; i < 5; ++i) {
    const uint64_t digit = i == 0 ? 1 + random.below(9) : random.below(10);
    // Another digit in this place, and no leading zero.
    uint64_t other = (digit + 1 + random.below(9)) % 10;
    if (i == 0 && other == 0) other = digit == 9 ? 4 : 9;
    answer += static_cast<char>('0' + digit);
    distractor += static_cast<char>('0' + other);
  }
  Needle needle;
  needle.lead = "The secret number of " + place + " is";
  needle.fact = needle.lead + " " + answer + ".";
  needle.question = "What is the secret number of " + place + "?";
  needle.answer = answer;
  needle.distractor = distractor;
  return needle;
}

std::string load_haystack(const fs::path& folder) {
  RILLKV_CHECK(is_folder(folder), "haystack: expected a folder of *.txt files, got ",
               folder.string());
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path& file = entry->path();
    if (file.extension() == ".txt" && is_file(file)) files.push_back(file);
  }
  RILLKV_CHECK(!error, "cannot read ", folder.string(), ": ", error.message());
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) {
    text += (text.empty() ? "" : "\n\n") + read_file(file);
  }
  RILLKV_CHECK(!paragraphs_of(text).empty(), "haystack: expected *.txt files with text in ",
               folder.string(), ", found ", files.size(), " files and no text");
  return text;
}

std::string stretch_haystack(const GenerationBackend& backend, std::string_view haystack,
                             int64_t tokens, uint64_t seed) {
  std::vector<std::string> paragraphs = paragraphs_of(haystack);
  RILLKV_CHECK(!paragraphs.empty(), "haystack: expected text, got none");
  std::vector<int64_t> sizes;
  for (const std::string& paragraph : paragraphs) {
    sizes.push_back(static_cast<int64_t>(backend.encode(paragraph).size()));
  }
  std::vector<size_t> order(paragraphs.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  Random random(seed);
  std::string text;
  int64_t have = 0;
  while (have < tokens) {
    const int64_t before = have;
    for (size_t i = 0; i < order.size() && have < tokens; ++i) {
      text += (text.empty() ? "" : "\n\n") + paragraphs[order[i]];
      have += sizes[order[i]];
    }
    RILLKV_CHECK(have > before, "haystack: expected text with tokens, got none");
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  }
  return text;
}

void check(const NeedleOptions& options) {
  const auto expect = [](bool good, const std::string& message) {
    if (!good) throw UsageError("needle: expected " + message);
  };
  expect(!options.lengths.empty(), "at least one length, got none");
  expect(!options.depths.empty(), "at least one depth, got none");
  for (int64_t length : options.lengths) {
    expect(length > 0, str_cat("lengths above 0, got ", length));
  }
  for (double depth : options.depths) {
    expect(depth >= 0 && depth <= 100, str_cat("depths in 0..100 per cent, got ", depth));
  }
  expect(options.samples > 0, str_cat("samples above 0, got ", options.samples));
  expect(
      options.max_new_tokens >= 0,
      str_cat("new tokens above 0, or 0 for what the answer takes, got ", options.max_new_tokens));
  if (!options.needle.fact.empty()) {
    expect(!options.needle.question.empty() && !options.needle.answer.empty() &&
               !options.needle.distractor.empty(),
           "question, answer and distractor beside an own needle");
    expect(options.needle.answer != options.needle.distractor,
           "a distractor that differs from the answer");
  }
}

std::vector<int64_t> needle_prompt(const GenerationBackend& backend, const NeedleOptions& options,
                                   const Needle& needle, int64_t length, double depth) {
  const auto size = [&](const std::string& text) {
    return static_cast<int64_t>(backend.encode_prompt(text, options.chat).size());
  };
  const int64_t bare = size(compose(needle, "", 0, options.chat));
  RILLKV_CHECK(bare < length, "needle: expected a length above the ", bare,
               " tokens of needle and question, got ", length);
  const std::string_view source =
      options.haystack.empty() ? default_haystack() : std::string_view(options.haystack);
  const std::string stretched = stretch_haystack(backend, source, length, options.seed);
  const std::vector<int64_t> ids = backend.encode(stretched);
  // Tokens of parts do not add up exactly to those of the whole: shrink until it fits.
  auto room = std::min(length - bare, static_cast<int64_t>(ids.size()));
  while (true) {
    const std::string text = backend.decode({ids.begin(), ids.begin() + room});
    const auto cut =
        static_cast<size_t>(std::llround(static_cast<double>(text.size()) * depth / 100));
    const std::vector<int64_t> prompt = backend.encode_prompt(
        compose(needle, text, sentence_boundary(text, cut), options.chat), options.chat);
    const int64_t excess = static_cast<int64_t>(prompt.size()) - length;
    if (excess <= 0) return prompt;
    RILLKV_CHECK(room > 0, "needle: expected a prompt of ", length, " tokens, got ", prompt.size());
    room = std::max<int64_t>(room - excess, 0);
  }
}

int64_t needle_new_tokens(const GenerationBackend& backend, const NeedleOptions& options,
                          const Needle& needle) {
  if (options.max_new_tokens > 0) return options.max_new_tokens;
  const auto size = [&](const std::string& text) {
    return static_cast<int64_t>(backend.encode(text).size());
  };
  int64_t reply;
  if (needle.lead.empty()) {
    reply = std::max(size(" " + needle.fact), size(" " + needle.answer + "."));
  } else {
    reply = size((options.chat ? needle.lead + " " : " ") + needle.answer + ".");
  }
  return reply + kWordsAround;
}

bool answer_cut_off(const Needle& needle, std::string_view text) {
  if (needle_score(needle, text) > 0 || repeats_itself(text)) return false;
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool number =
      !needle.answer.empty() && std::all_of(needle.answer.begin(), needle.answer.end(), is_digit);
  bool words = false;  // whether anything was said yet
  size_t digits = 0;   // in a row
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n' && words) return false;
    const bool ends = c == '.' || c == '!' || c == '?';
    if (ends && words && i + 1 < text.size() && is_space(text[i + 1])) return false;
    if (c != ',') digits = is_digit(c) ? digits + 1 : 0;  // 35,512 is one number
    if (number && digits >= needle.answer.size()) return false;
    words = words || !is_space(c);
  }
  // A sentence that ends where the text does is complete as well.
  const size_t last = text.find_last_not_of(" \t\r\n");
  return last == text.npos || std::string_view(".!?").find(text[last]) == std::string_view::npos;
}

double needle_score(const Needle& needle, std::string_view text) {
  const std::string wanted = normalize_english(needle.answer);
  const std::string said = normalize_english(text);
  return !wanted.empty() && said.find(wanted) != std::string::npos ? 1 : 0;
}

bool run_needle(const NeedleOptions& options, GenerationBackend& compressed,
                GenerationBackend* dense, ResultLog& log, const Progress& progress) {
  check(options);
  struct Runner {
    const char* name;
    GenerationBackend* backend;
  };
  std::vector<Runner> sides;
  if (dense != nullptr) sides.push_back({kDense, dense});
  sides.push_back({kCompressed, &compressed});
  const auto total =
      static_cast<int64_t>(options.lengths.size() * options.depths.size() * sides.size()) *
      options.samples;
  int64_t done = 0;
  for (size_t l = 0; l < options.lengths.size(); ++l) {
    for (size_t d = 0; d < options.depths.size(); ++d) {
      for (int64_t sample = 0; sample < options.samples; ++sample) {
        const int64_t length = options.lengths[l];
        const double depth = options.depths[d];
        // Both sides of a cell see the same needle, every cell another one, whatever the grid
        // around it.
        const uint64_t seed = options.seed + 1000003 * static_cast<uint64_t>(length) +
                              10007 * static_cast<uint64_t>(std::llround(100 * depth)) +
                              static_cast<uint64_t>(sample);
        Needle storage;
        const Needle& needle = pick(options, seed, storage);
        for (const Runner& side : sides) {
          const std::string key = cell_key(side.name, length, depth, sample);
          if (log.find(key) == nullptr) {
            if (interrupted()) return false;
            named("needle, " + key, [&] {
              log.append(key, run_cell(*side.backend, options, needle, length, depth));
            });
            if (progress) {
              progress(done + 1, total, str_cat(length, " tokens, depth ", depth, " %"));
            }
          }
          ++done;
        }
      }
    }
  }
  return true;
}

Json needle_report(const NeedleOptions& options, const ResultLog& log,
                   const CompressionConfig& config) {
  PerformanceSummary compressed_performance(config), dense_performance(config.baseline());
  Side all, solvable_cells, dense_all;
  bool complete = true;
  Json cells = Json::array(), unsolvable = Json::array();
  for (int64_t length : options.lengths) {
    std::vector<Side> ours, theirs;
    for (double depth : options.depths) {
      ours.push_back(
          collect(log, kCompressed, length, depth, options.samples, compressed_performance));
      theirs.push_back(collect(log, kDense, length, depth, options.samples, dense_performance));
      complete = complete && ours.back().samples == options.samples;
    }
    const Json solvable = solvable_by(theirs, options.solved_score);
    if (solvable == false) unsolvable.push_back(length);
    for (size_t d = 0; d < options.depths.size(); ++d) {
      const Side &mine = ours[d], &dense = theirs[d];
      if (mine.samples == 0 && dense.samples == 0) continue;
      all.add(mine);
      dense_all.add(dense);
      if (solvable == true) solvable_cells.add(mine);
      Json baseline = dense.json();
      if (!baseline.is_null()) baseline["text"] = dense.text;
      cells.push_back({{"length", length},
                       {"depth", options.depths[d]},
                       {"samples", mine.samples},
                       {"prompt_tokens", std::max(mine.prompt_tokens, dense.prompt_tokens)},
                       {"score", mine.score.json()},
                       {"margin", mine.margin.json()},
                       {"cut_off", mine.cut_off},
                       {"text", mine.text},
                       {"baseline", baseline},
                       {"solvable", solvable}});
    }
  }
  const bool any_dense = dense_all.samples > 0;
  return {{"benchmark", "needle"},
          {"complete", complete},
          {"lengths", options.lengths},
          {"depths", options.depths},
          {"samples", options.samples},
          {"solved_score", options.solved_score},
          {"cells", cells},
          {"score", all.score.json()},
          {"margin", all.margin.json()},
          {"cut_off", all.cut_off},
          {"score_solvable", solvable_cells.score.json()},
          {"margin_solvable", solvable_cells.margin.json()},
          {"baseline", dense_all.json()},
          {"unsolvable_lengths", any_dense ? unsolvable : Json()},
          {"performance",
           {{"compressed", compressed_performance.to_json()},
            {"baseline", any_dense ? dense_performance.to_json() : Json()}}}};
}

}  // namespace rillkv::eval
