// How far apart queries and keys usually are, as the error feedback of keys wants to know it.
#pragma once

#include <memory>
#include <vector>

namespace rillkv {

/// A key's error e moves a logit at distance d by <R(d) q, e>. Over distances d = 0 .. 1023 with
/// p(d) ~ 1 / (d + 1), which is how attention falls off, the second moment of R(d) q follows from
/// that of q before RoPE by two factors a pair (a, b) of frequencies:
///   g0 = E[exp(i d (f_a - f_b))],   g1 = E[exp(i d (f_a + f_b))].
/// Pairs of high frequencies lose their cross terms, those of low frequencies keep them.
///
/// Returns [D/2, D/2, 4] f32: re g0, im g0, re g1, im g1; computed in double and rounded once.
/// The tables of the models at hand are kept and shared.
std::shared_ptr<const std::vector<float>> rotary_distances(
    const std::vector<double>& inverse_frequencies);

}  // namespace rillkv
