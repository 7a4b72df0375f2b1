"""The contract between the public functions and the rooms that do the work.

A room is a module that has functions of these names and parameters. Every one *fills* the arrays that it is given for
its results; what is passed as None is not wanted. A room may assume that arguments were checked: arrays of its own
library, aligned and in native byte order, one dtype, shapes that fit the plan, results that overlap no input. It may
not assume anything of strides, and never writes to an input. Batches may be empty, but for softmax and the losses.
float16 and bfloat16 are seen by `widen`, which makes float32 of them, and `narrow`, the way back, alone.

=======================  =============================================================================================
conv                     x, weight, bias, plan, activation, out
conv_backward            grad_output, x, weight, plan, grad_x, grad_weight, grad_bias
conv_transpose           x, weight, bias, plan, out
sum_channels             x, out
max_pool                 x, plan, out, indices
max_pool_backward        grad_output, indices, grad_x
max_unpool               x, indices, out
max_unpool_backward      grad_output, indices, grad_x
avg_pool                 x, plan, divisors, out
avg_pool_backward        grad_output, plan, divisors, grad_x
lp_pool                  x, norm_type, plan, divisors, out
lp_pool_backward         grad_output, x, norm_type, plan, divisors, grad_x
dense                    x, weight, bias, activation, out
dense_backward           grad_output, x, weight, grad_x, grad_weight, grad_bias
norm                     x, gamma, beta, eps, measure, mean, variance, out
norm_backward            grad_output, x, gamma, eps, measure, mean, variance, grad_x, grad_gamma, grad_beta
activate                 activation, x, out
activate_backward        activation, grad_output, x, out
dropout                  x, kept, scale, out
softmax                  x, axis, out
softmax_backward         grad_output, x, axis, out
log_softmax              x, axis, out
log_softmax_backward     grad_output, x, axis, out
cross_entropy            logits, labels, label_smoothing, out
cross_entropy_backward   scale, logits, labels, label_smoothing, out
mse_loss                 y, target, out
mse_loss_backward        scale, y, target, out
widen                    x, out
narrow                   x, out
=======================  =============================================================================================

Arrays are (N, C, *spatial), for dense (N, features). `plan` is a `geometry.ConvPlan` or `geometry.PoolPlan`, for
`conv_transpose` that of the convolution from `out` to `x`, whose input gradient, with a bias, is wanted; for max_pool,
avg_pool and avg_pool_backward also a `geometry.AdaptivePlan`. `divisors` are per spatial axis the factors of a window's
divisor (`geometry.pool_divisors`), `norm_type` is a finite number, `scale` what the gradient of each label, or of every
number, is multiplied by. `activation` is a name of `ops.activation` ("gelu_tanh" being GELU's approximation) with its
parameter, such as ("elu", 1.0), 0.0 where there is none; in conv and dense it may be None.

Normalisation sees x as (N, G, K, P): G groups of K channels, P pixels; gamma and beta, or None, are (G, K). `mean` and
`variance`, in float64, are (N, G), one pair for each image and group, or (1, G), one for each group of all images; a
room fills them if `measure` is true, else normalises with what they hold. x is not empty.
"""
