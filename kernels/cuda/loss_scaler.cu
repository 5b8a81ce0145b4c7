// loss_scaler.cu: dynamic loss scaling and the numbers of an AdamW step, decided on the device.

#include "optimizer.cuh"

// x^n by repeated squaring, the same multiplications as the host's powi.
__device__ __forceinline__ double power(double x, uint32_t n) {
    double result = 1.0;
    while (true) {
        if (n & 1) result *= x;
        n /= 2;
        if (n == 0) return result;
        x *= x;
    }
}

// loss_scaler_update: from the norm of the scaled gradients, what this step does and what the next one's loss is multiplied by
//   finite:      the step counts: updates + 1, grad_scale = clip factor / loss scale, bias corrections of t = updates, learning rate of
//                this step; with scaling on, after growth_interval clean steps loss_scale = min(loss_scale growth, ceiling)
//   not finite:  nothing is applied; skipped + 1; with scaling on, loss_scale = max(loss_scale backoff, floor)
//   clip factor = min(1, clip_norm / (norm + 1e-6)), norm unscaled, as PyTorch; 1 when clip_norm is 0
// shapes   state: one OptimizerState; loss_scale: one f32; settings: one OptimizerSettings; rates (rates) f64; norm: one f64
// launch   one thread
// source   Micikevicius et al. 2018, arXiv:1710.03740, section 3.2; bias corrections: Kingma and Ba 2015, algorithm 1
extern "C" __global__ void __launch_bounds__(1)
    loss_scaler_update(uint32_t* state_words, float* loss_scale, const double* settings_words, const double* rates,
                       const double* scaled_norm) {
    OptimizerState state = *reinterpret_cast<const OptimizerState*>(state_words);
    const OptimizerSettings settings = *reinterpret_cast<const OptimizerSettings*>(settings_words);
    const bool scaling = settings.scaling != 0.0;
    const double scale = scaling ? double(*loss_scale) : 1.0;
    state.norm = *scaled_norm / scale;
    state.lr = rates[min(state.step, uint32_t(settings.rates) - 1)];
    state.step += 1;
    const bool finite = state.norm - state.norm == 0.0;
    state.applied = finite;
    if (finite) {
        state.updates += 1;
        const double factor = settings.clip_norm / (state.norm + 1e-6);
        const double clip = settings.clip_norm <= 0.0 || factor > 1.0 ? 1.0 : factor;
        state.grad_scale = float(clip / scale);
        state.step_size = float(state.lr / (1.0 - power(settings.beta1, state.updates)));
        state.v_correction = float(1.0 / sqrt(1.0 - power(settings.beta2, state.updates)));
        state.clean += scaling;
        if (scaling && double(state.clean) >= settings.growth_interval) {
            *loss_scale = float(min(scale * settings.growth, settings.ceiling));
            state.clean = 0;
        }
    } else {
        state.skipped += 1;
        state.clean = 0;
        if (scaling) *loss_scale = float(max(scale * settings.backoff, settings.floor));
    }
    *reinterpret_cast<OptimizerState*>(state_words) = state;
}

// loss_scaler_advance: counter += 1, for the step of a generator's stream, which moves with every micro-batch
// shapes   counter: one u32
// launch   one thread
extern "C" __global__ void __launch_bounds__(1) loss_scaler_advance(uint32_t* counter) { *counter += 1; }
