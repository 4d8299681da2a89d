#include "rillkv/eval/metrics.h"

#include <algorithm>
#include <map>

#include "rillkv/error.h"
#include "src/eval/unicode.h"

namespace rillkv::eval {
namespace {

// Punctuation of Chinese text beside the ASCII kind, by code point: 3002 FF61 and the quotation,
// bracket and dash marks LongBench strips.
constexpr std::u32string_view kChinesePunctuation =
    U"！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔"
    U"〕〖〗〘〙〚〛〜"
    U"〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏";

bool is_article(std::u32string_view word) {
  return word == U"a" || word == U"an" || word == U"the";
}

std::u32string normalize(std::string_view text) {
  std::u32string kept;
  for (char32_t c : to_lower(decode_utf8(text))) {
    if (!is_ascii_punctuation(c)) kept.push_back(c);
  }
  // Articles as whole words: a word is a maximal run of word characters.
  std::u32string spaced;
  for (size_t i = 0; i < kept.size();) {
    size_t end = i;
    while (end < kept.size() && is_word(kept[end])) ++end;
    if (end == i) {
      spaced.push_back(kept[i++]);
      continue;
    }
    const std::u32string_view word(&kept[i], end - i);
    if (is_article(word)) {
      spaced.push_back(U' ');
    } else {
      spaced.append(word);
    }
    i = end;
  }
  std::u32string joined;
  for (const std::u32string& word : split_whitespace(spaced)) {
    if (!joined.empty()) joined.push_back(U' ');
    joined += word;
  }
  return joined;
}

template <typename String>
double bag_f1(const std::vector<String>& prediction, const std::vector<String>& truth) {
  std::map<String, int64_t> counts;
  for (const String& word : truth) ++counts[word];
  int64_t common = 0;
  for (const String& word : prediction) {
    const auto it = counts.find(word);
    if (it != counts.end() && it->second > 0) {
      --it->second;
      ++common;
    }
  }
  if (common == 0) return 0;
  const double precision = static_cast<double>(common) / static_cast<double>(prediction.size());
  const double recall = static_cast<double>(common) / static_cast<double>(truth.size());
  return 2 * precision * recall / (precision + recall);
}

std::vector<std::string> normalized_words(const std::vector<std::string>& words) {
  std::vector<std::string> kept;
  for (const std::string& word : words) {
    std::string normal = normalize_chinese(word);
    if (!normal.empty()) kept.push_back(std::move(normal));
  }
  return kept;
}

std::vector<std::u32string> numbers_in(std::u32string_view text) {
  std::vector<std::u32string> numbers;
  bool inside = false;
  for (char32_t c : text) {
    if (is_decimal(c)) {
      if (!inside) numbers.emplace_back();
      numbers.back().push_back(c);
      inside = true;
    } else {
      inside = false;
    }
  }
  return numbers;
}

double share_equal(std::string_view prediction, const std::u32string& wanted) {
  const std::vector<std::u32string> numbers = numbers_in(decode_utf8(prediction));
  if (numbers.empty()) return 0;
  const auto right = std::count(numbers.begin(), numbers.end(), wanted);
  return static_cast<double>(right) / static_cast<double>(numbers.size());
}

double retrieval(std::string_view prediction, std::string_view truth, std::u32string_view marker) {
  const std::u32string text = decode_utf8(truth);
  for (size_t at = text.find(marker); at != std::u32string::npos; at = text.find(marker, at + 1)) {
    size_t end = at + marker.size();
    while (end < text.size() && is_decimal(text[end])) ++end;
    if (end > at + marker.size()) {
      return share_equal(prediction, text.substr(at + marker.size(), end - at - marker.size()));
    }
  }
  throw Error(str_cat("retrieval score: expected an answer with \"", encode_utf8(marker),
                      "N\", got \"", truth, "\""));
}

}  // namespace

std::string normalize_english(std::string_view text) { return encode_utf8(normalize(text)); }

std::string normalize_chinese(std::string_view text) {
  std::u32string kept;
  for (char32_t c : to_lower(decode_utf8(text))) {
    if (is_ascii_punctuation(c) || is_space(c)) continue;
    if (kChinesePunctuation.find(c) != std::u32string_view::npos) continue;
    kept.push_back(c);
  }
  return encode_utf8(kept);
}

double token_f1(std::string_view prediction, std::string_view truth) {
  return bag_f1(split_whitespace(normalize(prediction)), split_whitespace(normalize(truth)));
}

double token_f1_words(const std::vector<std::string>& prediction,
                      const std::vector<std::string>& truth) {
  return bag_f1(normalized_words(prediction), normalized_words(truth));
}

double exact_match(std::string_view prediction, std::string_view truth) {
  return normalize(prediction) == normalize(truth) ? 1 : 0;
}

double classification_score(std::string_view prediction, std::string_view truth,
                            const std::vector<std::string>& classes) {
  RILLKV_CHECK(!classes.empty(), "classification score: expected class names, got none");
  std::vector<std::string> found;
  for (const std::string& name : classes) {
    if (prediction.find(name) != std::string_view::npos) found.push_back(name);
  }
  // Erasing shifts the next name into place i, and the reference moves on past it.
  for (size_t i = 0; i < found.size(); ++i) {
    const std::string term = found[i];
    if (term != truth && truth.find(term) != std::string_view::npos) {
      found.erase(std::find(found.begin(), found.end(), term));
    }
  }
  if (std::find(found.begin(), found.end(), truth) == found.end()) return 0;
  return 1.0 / static_cast<double>(found.size());
}

double retrieval_score(std::string_view prediction, std::string_view truth) {
  return retrieval(prediction, truth, U"Paragraph ");
}

double retrieval_score_chinese(std::string_view prediction, std::string_view truth) {
  return retrieval(prediction, truth, U"段落");
}

double count_score(std::string_view prediction, std::string_view truth) {
  return share_equal(prediction, decode_utf8(truth));
}

}  // namespace rillkv::eval
