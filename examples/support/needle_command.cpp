#include "rillkv/eval/content_hash.h"
#include "rillkv/eval/result_log.h"
#include "support/commands.h"

namespace rillkv::cli {

void add_needle_options(CLI::App& app, NeedleArguments& a) {
  eval::NeedleOptions& o = a.options;
  app.add_option("--lengths", o.lengths, "Prompt lengths, tokens")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--depths", o.depths, "Depths of the needle, per cent")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--samples", o.samples, "Needles a cell")->capture_default_str();
  app.add_option("--haystack", a.haystack, "Folder of *.txt files (default: the project's prose)");
  app.add_option("--needle", o.needle.fact, "Your own sentence to hide, in place of random ones");
  app.add_option("--question", o.needle.question, "What is asked about it");
  app.add_option("--lead", o.needle.lead, "How the answer begins");
  app.add_option("--answer", o.needle.answer, "The right answer");
  app.add_option("--distractor", o.needle.distractor, "A wrong answer of the same form");
  app.add_option("--needle-tokens", o.max_new_tokens,
                 "Tokens to generate (0: what the answer takes and 16 more)")
      ->capture_default_str();
  app.add_option("--needle-seed", o.seed, "Of the needles")->capture_default_str();
  app.add_option("--solved-score", o.solved_score,
                 "Dense score from which a length counts as solved")
      ->capture_default_str();
  app.add_flag("!--no-baseline", a.baseline, "Leave the dense cache out");
}

OrderedJson run_needle(Session& session, const NeedleArguments& a, const std::filesystem::path& log,
                       bool restart) {
  eval::NeedleOptions options = a.options;
  options.chat = !session.chat.is_none();
  eval::check(options);
  if (!a.haystack.empty()) options.haystack = eval::load_haystack(a.haystack);
  const std::string_view haystack =
      options.haystack.empty() ? eval::default_haystack() : std::string_view(options.haystack);
  nlohmann::json fingerprint = session.fingerprint();
  const eval::Needle& n = options.needle;
  // Lengths, depths and samples may grow between runs: their cells are independent.
  fingerprint["needle"] = {{"haystack_hash", eval::content_hash(haystack)},
                           {"needle", {n.fact, n.question, n.lead, n.answer, n.distractor}},
                           {"max_new_tokens", options.max_new_tokens},
                           {"seed", options.seed}};
  eval::ResultLog results(log, fingerprint, restart);
  results.stamp(record_stamp());
  const std::unique_ptr<eval::ModelBackend> compressed = session.backend(/*dense=*/false);
  const std::unique_ptr<eval::ModelBackend> dense =
      a.baseline ? session.backend(/*dense=*/true) : nullptr;
  eval::run_needle(options, *compressed, dense.get(), results,
                   bar_progress("needle", session.options.quiet));
  OrderedJson report = eval::needle_report(options, results, session.config);
  report.update(provenance(session));
  report["seed"] = options.seed;
  report["haystack"] = a.haystack.empty() ? "default" : a.haystack;
  report["haystack_hash"] = eval::content_hash(haystack);
  return report;
}

}  // namespace rillkv::cli
