"""The contract between the public functions and the rooms that do the work.

A room is a module that has functions of these names and parameters. Every one *fills* the arrays that it is given for
its results; what is passed as None is not wanted. A room may assume that arguments were checked: arrays of its own
library, aligned and in native byte order, one dtype, shapes that fit the plan, results that overlap no input. It may
not assume anything of strides, and never writes to an input. Batches may be empty, but for softmax and the losses.

=======================  =====================================================================================
conv                     x, weight, bias, plan, activation, out
conv_backward            grad_output, x, weight, plan, grad_x, grad_weight, grad_bias
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
relu                     x, out
relu_backward            grad_output, x, out
softmax                  x, axis, out
softmax_backward         grad_output, x, axis, out
log_softmax              x, axis, out
log_softmax_backward     grad_output, x, axis, out
cross_entropy            logits, labels, label_smoothing, out
cross_entropy_backward   scale, logits, labels, label_smoothing, out
=======================  =====================================================================================

Arrays are (N, C, *spatial), for dense (N, features). `plan` is a `geometry.ConvPlan` or `geometry.PoolPlan`, for
max_pool, avg_pool and avg_pool_backward also a `geometry.AdaptivePlan`, `divisors` per spatial axis the factors of a
window's divisor (`geometry.pool_divisors`), `norm_type` a finite number, `activation` None or a name, `scale` what the
gradient of each label is multiplied by.
"""
