#include "rillkv/eval/needle.h"

#include <algorithm>
#include <array>
#include <cmath>
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
  request.max_new_tokens = options.max_new_tokens;
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
          {"margin", generation.margin},
          {"answer_log_prob", generation.answer_log_prob},
          {"stats", to_json(generation.stats)}};
}

/// Means of one side over the samples of a cell, or over cells.
struct Mean {
  double score = 0, margin = 0;
  int64_t count = 0;
  void add(double s, double m) {
    score += s;
    margin += m;
    ++count;
  }
  Json json_score() const { return count > 0 ? Json(score / static_cast<double>(count)) : Json(); }
  Json json_margin() const {
    return count > 0 ? Json(margin / static_cast<double>(count)) : Json();
  }
};

struct CellSide {
  Mean mean;
  int64_t prompt_tokens = 0;
  std::string text;  // Of the first sample.
};

CellSide collect(const ResultLog& log, const char* side, int64_t length, double depth,
                 int64_t samples, PerformanceSummary& performance) {
  CellSide cell;
  for (int64_t sample = 0; sample < samples; ++sample) {
    const Json* record = log.find(cell_key(side, length, depth, sample));
    if (record == nullptr) continue;
    read_record(str_cat(log.path().string(), ": ", cell_key(side, length, depth, sample)), [&] {
      // A margin that is not a number must not pass for 0.
      cell.mean.add(record->at("score").get<double>(), figure(*record, "margin"));
      if (cell.mean.count == 1) {
        cell.prompt_tokens = record->at("prompt_tokens").get<int64_t>();
        cell.text = record->at("text").get<std::string>();
      }
      performance.add(run_stats_from_json(record->value("stats", Json::object())));
    });
  }
  return cell;
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
  expect(options.max_new_tokens > 0,
         str_cat("max new tokens above 0, got ", options.max_new_tokens));
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

double needle_score(const Needle& needle, std::string_view text) {
  const std::string wanted = normalize_english(needle.answer);
  const std::string said = normalize_english(text);
  return !wanted.empty() && said.find(wanted) != std::string::npos ? 1 : 0;
}

bool run_needle(const NeedleOptions& options, GenerationBackend& compressed,
                GenerationBackend* dense, ResultLog& log, const Progress& progress) {
  check(options);
  struct Side {
    const char* name;
    GenerationBackend* backend;
  };
  std::vector<Side> sides;
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
        for (const Side& side : sides) {
          const std::string key = cell_key(side.name, length, depth, sample);
          if (log.find(key) == nullptr) {
            if (interrupted()) return false;
            log.append(key, run_cell(*side.backend, options, needle, length, depth));
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
  Mean all, solvable_cells, dense_all;
  bool complete = true, any_dense = false;
  Json cells = Json::array(), unsolvable = Json::array();
  for (int64_t length : options.lengths) {
    std::vector<CellSide> ours, theirs;
    Mean dense_length;
    for (double depth : options.depths) {
      ours.push_back(
          collect(log, kCompressed, length, depth, options.samples, compressed_performance));
      theirs.push_back(collect(log, kDense, length, depth, options.samples, dense_performance));
      complete = complete && ours.back().mean.count == options.samples;
      const Mean& dense = theirs.back().mean;
      if (dense.count > 0) {
        any_dense = true;
        dense_length.add(dense.score / static_cast<double>(dense.count),
                         dense.margin / static_cast<double>(dense.count));
      }
    }
    const bool judged = dense_length.count > 0;
    const bool solvable = judged && dense_length.score / static_cast<double>(dense_length.count) >=
                                        options.solved_score;
    if (judged && !solvable) unsolvable.push_back(length);
    for (size_t d = 0; d < options.depths.size(); ++d) {
      const CellSide &mine = ours[d], &dense = theirs[d];
      if (mine.mean.count > 0) {
        const double score = mine.mean.score / static_cast<double>(mine.mean.count);
        const double margin = mine.mean.margin / static_cast<double>(mine.mean.count);
        all.add(score, margin);
        if (solvable) solvable_cells.add(score, margin);
      }
      if (dense.mean.count > 0) {
        dense_all.add(dense.mean.score / static_cast<double>(dense.mean.count),
                      dense.mean.margin / static_cast<double>(dense.mean.count));
      }
      if (mine.mean.count == 0 && dense.mean.count == 0) continue;
      Json baseline;
      if (dense.mean.count > 0) {
        baseline = {{"score", dense.mean.json_score()},
                    {"margin", dense.mean.json_margin()},
                    {"text", dense.text}};
      }
      cells.push_back({{"length", length},
                       {"depth", options.depths[d]},
                       {"samples", mine.mean.count},
                       {"prompt_tokens", std::max(mine.prompt_tokens, dense.prompt_tokens)},
                       {"score", mine.mean.json_score()},
                       {"margin", mine.mean.json_margin()},
                       {"text", mine.text},
                       {"baseline", baseline},
                       {"solvable", judged ? Json(solvable) : Json()}});
    }
  }
  return {{"benchmark", "needle"},
          {"complete", complete},
          {"lengths", options.lengths},
          {"depths", options.depths},
          {"samples", options.samples},
          {"solved_score", options.solved_score},
          {"cells", cells},
          {"score", all.json_score()},
          {"margin", all.json_margin()},
          {"score_solvable", solvable_cells.json_score()},
          {"margin_solvable", solvable_cells.json_margin()},
          {"baseline",
           any_dense ? Json{{"score", dense_all.json_score()}, {"margin", dense_all.json_margin()}}
                     : Json()},
          {"unsolvable_lengths", any_dense ? unsolvable : Json()},
          {"performance",
           {{"compressed", compressed_performance.to_json()},
            {"baseline", any_dense ? dense_performance.to_json() : Json()}}}};
}

}  // namespace rillkv::eval
