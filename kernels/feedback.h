// Error feedback for the keys of a block (policy "adaptive"): the numerics that every back end keeps
// to the bit, and the plan that its kernels pass on.
//
// A key channel is rounded to its codes, and what that costs the logits is made good by the channels
// that are rounded after it. With H the expectation of the rotated queries' second moment, the loss
// of a token's rounding error err is err^T H err. H = U diag(d) U^T with U unit upper triangular
// turns it into the sum of d_k (err_k + sum over j < k of B_kj err_j)^2, B the transpose of U's
// strict part: channel k is rounded with the sum already in it, and d_k is what it still weighs.
// (GPTQ, arXiv 2210.17323; LDLQ, arXiv 2307.13304.)
//
// Symbols: D head_dim, h = D / 2 RoPE pairs (p, p + h), T tokens of the block, G query heads of the
// kv head. All fp32; fma rounds once, every other operation by itself.
//
// 1. MOMENT S (moment_layout.h): for every token in ascending order, and for it the group's heads
//    in ascending order, S_ij = fma(q_i, q_j, S_ij) with the queries before RoPE.
// 2. HESSIAN H from S and `distances` [h][h][4], (re0, im0, re1, im1) of a pair of pairs (a, b):
//    E[exp(i n (f_a - f_b))] and E[exp(i n (f_a + f_b))] over distances n. With A = S[a][b],
//    B = S[a][b + h], C = S[a + h][b], E = S[a + h][b + h]:
//      sum = A + E   dif = A - E   cross = C - B   both = C + B
//      ur = fma(-cross, im0, sum * re0)   ui = fma(cross, re0, sum * im0)
//      vr = fma(-both, im1, dif * re1)    vi = fma(both, re1, dif * im1)
//      H[a][b] = 0.5 (ur + vr)            H[a][b + h] = 0.5 (vi - ui)
//      H[a + h][b] = 0.5 (ui + vi)        H[a + h][b + h] = 0.5 (ur - vr)
//    Of H[i][j] and H[j][i] the one is meant whose row comes later in the order of step 4.
// 3. ENERGY of a pair e_p = 0.5 (H[p][p] + H[p + h][p + h]); mean = (sum over p ascending of e_p) /
//    h. H[c][c] += damping of its pair, fma(kDampingShare, e_p, kDampingFloor * mean). Unless
//    kLeastEnergy <= mean <= kMostEnergy, H is the identity, every e_p is 1 and every damping 0:
//    there is nothing to weigh by (no queries yet), or no fp32 numbers for it.
// 4. ORDER: pairs by descending e_p, the lower pair first on a tie; both channels of a pair
//    together, p before p + h. M = H in that order.
// 5. FACTOR, k = D - 1 .. 0: d_k = max(M_kk, kLeastSensitivity * damping of its channel), the second
//    if M_kk is NaN; B_kj = M_kj / d_k for j < k; M_ij = fma(-B_ki, M_kj, M_ij) for j <= i < k.
// 6. WIDTHS: allocate_widths with the channels' variances as spread and d as energies.
// 7. FEEDBACK, k = 0 .. D - 1, c the channel at k, x its keys: x'[t] = x[t], then for j = 0 .. k - 1
//    x'[t] = fma(B_kj, err_j[t], x'[t]), then min(max(x'[t], -kMaxMagnitude), kMaxMagnitude). x' is
//    coded as any channel (minimum, maximum, scale, codes), and err_k[t] = x[t] - fma(step, code,
//    lo) with the stored scale.
#pragma once

#include <cstdint>

namespace rillkv::kernels {

inline constexpr float kDampingShare = 0.02f;
inline constexpr float kDampingFloor = 2e-5f;
inline constexpr float kLeastSensitivity = 1e-6f;
// Between these, kLeastSensitivity * kDampingFloor * mean is a normal number, and four times the
// moment's trace is finite for every head_dim.
inline constexpr float kLeastEnergy = 1e-25f;
inline constexpr float kMostEnergy = 1e30f;

/// How one kv head of one block is rounded: steps 2 to 5. The pointers are the caller's.
struct FeedbackPlan {
  uint16_t* order = nullptr;       // [D], the channel at position k
  float* sensitivities = nullptr;  // [D], d_k, by position
  float* weights = nullptr;        // [D, D], row k: B_kj for j < k; the rest is unspecified
};

}  // namespace rillkv::kernels
