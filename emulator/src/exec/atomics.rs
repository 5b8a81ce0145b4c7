//! Atomic operations (PTX ISA 9.7.13, `atom` and `red`). Lanes go one after another, lowest first, or in an order
//! drawn from the seed: the result of float additions depends on it, as on hardware.

use super::access::What;
use super::engine::Engine;
use super::lanes::Banks;
use super::rows::{lanes_of, read32, read64, write32, write64};
use super::scalar::{self, Finish, Float, Int, Scalar};
use super::soft::Round;
use super::state::Warp;
use crate::check::Kind as Check;
use crate::code::{AtomOp, AtomicOp};
use crate::counters::serial_updates;
use crate::ptx::ast::Space;

/// The new value of an atomic.
pub(super) fn update(op: &AtomOp, old: u64, b: u64, c: u64) -> u64 {
    let ty = op.ty;
    let int = |i| scalar::eval(&Scalar::Int(i, ty, false), [old, b, 0, 0]);
    let float = |f| scalar::eval(&Scalar::Float(f, ty, Round::Nearest, Finish::default()), [old, b, 0, 0]);
    match op.op {
        AtomicOp::Add if ty.is_float() => {
            // f32 atomics in global memory flush subnormals on no sm_80 path that the ISA states; they are kept.
            float(Float::Add)
        }
        AtomicOp::Add => old.wrapping_add(b),
        AtomicOp::Min if ty.is_float() => float(Float::Min { nan: false }),
        AtomicOp::Max if ty.is_float() => float(Float::Max { nan: false }),
        AtomicOp::Min => int(Int::Min { relu: false }),
        AtomicOp::Max => int(Int::Max { relu: false }),
        AtomicOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomicOp::And => old & b,
        AtomicOp::Or => old | b,
        AtomicOp::Xor => old ^ b,
        AtomicOp::Exch => b,
        AtomicOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}

impl Engine<'_> {
    pub(super) fn atomic(&mut self, warp: &mut Warp, banks: &Banks, index: u32, pc: u32, mask: u32) {
        let code = self.l.code;
        let op = code.atoms[index as usize];
        let pool = &code.pool[code.insts[pc as usize].pool as usize..];
        let results = if op.has_result { (op.ty.bytes() as usize).div_ceil(8) } else { 0 };
        let (result, rest) = pool.split_at(results);
        let addresses = Self::addresses(banks, op.address, rest[0], op.offset);
        let wide = op.ty.bytes() >= 8;
        // 128 bits are two registers.
        let parts = (op.ty.bytes() as usize).div_ceil(8);
        let row = |slot: u16| if wide { read64(banks, slot) } else { read32(banks, slot).map(|v| v as u64) };
        let value = |at: usize| -> [[u64; 32]; 2] {
            let mut out = [[0; 32]; 2];
            out.iter_mut().zip(&rest[at..at + parts]).for_each(|(o, &slot)| *o = row(slot));
            out
        };
        let b = value(1);
        let c = if op.op == AtomicOp::Cas { value(1 + parts) } else { [[0; 32]; 2] };
        let what = What {
            pc,
            warp: warp.index,
            bytes: op.ty.bytes().min(8),
            count: parts as u32,
            write: true,
            strength: op.strength,
            atomic: true,
        };
        if self.l.options.counters {
            let count = &mut self.counts[pc as usize];
            count.bytes += what.total() * mask.count_ones() as u64;
            count.transfers += serial_updates(&addresses, mask);
            count.ideal += 1;
        }
        let mut old = [[u64::MAX; 2]; 32];
        let order: Vec<u32> = {
            let mut lanes: Vec<u32> = lanes_of(mask).collect();
            if self.random {
                for i in (1..lanes.len()).rev() {
                    let j = self.b.random(i + 1);
                    lanes.swap(i, j);
                }
            }
            lanes
        };
        let bytes = op.ty.bytes();
        let cut = u64::MAX >> (64 - 8 * bytes.min(8));
        let step = |lane: u32, before: [u64; 2]| -> [u64; 2] {
            let [b, c] = [b, c].map(|v| [v[0][lane as usize] & cut, v[1][lane as usize]]);
            match op.op {
                AtomicOp::Exch if parts == 2 => b,
                AtomicOp::Cas if parts == 2 && before == b => c,
                AtomicOp::Cas if parts == 2 => before,
                _ => [update(&op, before[0], b[0], c[0]) & cut, 0],
            }
        };
        let check = self.l.options.checks.uninitialised;
        self.by_space(op.space, what, &addresses, mask, |this, space, m| match space {
            Space::Shared | Space::Cluster => {
                this.cluster_access(what, &addresses, m, |this, addresses, m| {
                    let (m, offsets) = this.shared_lanes(what, addresses, m);
                    for &i in order.iter().filter(|&&i| m >> i & 1 != 0) {
                        let start = offsets[i as usize] as usize;
                        let size = bytes as usize;
                        if !this.b.shared.is_written(start, size) && op.op != AtomicOp::Exch {
                            this.report(Check::Uninitialised, pc, what.warp, i, || {
                                format!(
                                    "updates {bytes} B at byte {start} of shared memory that nothing has written"
                                )
                            });
                        }
                        let cell = &mut this.b.shared.data[start..start + size];
                        let mut before = [0; 2];
                        before.iter_mut().zip(cell.chunks(8)).for_each(|(v, c)| *v = super::rows::load_bytes(c));
                        let after = step(i, before);
                        for (cell, v) in cell.chunks_mut(8).zip(after) {
                            cell.copy_from_slice(&v.to_le_bytes()[..cell.len()]);
                        }
                        this.b.shared.mark(start, size);
                        old[i as usize] = before;
                    }
                })
            }
            Space::Local => {
                let lane = m.trailing_zeros();
                this.report(Check::WrongSpace, pc, what.warp, lane, || {
                    "updates local memory with an atomic".to_string()
                });
            }
            _ => {
                let mut missing = 0u32;
                this.global_lanes(what, &addresses, m, false, |allocation, m| {
                    for &i in order.iter().filter(|&&i| m >> i & 1 != 0) {
                        let offset = addresses[i as usize] - allocation.base;
                        // SAFETY: `global_lanes` gives lanes whose aligned access lies wholly within the allocation.
                        // Kernels with global atomics run on one thread, so load and store together are atomic.
                        unsafe {
                            let part = bytes.min(8);
                            let mut places = (0..parts as u64).map(|k| offset + 8 * k);
                            if op.op != AtomicOp::Exch && !places.all(|at| allocation.is_written(at, part)) {
                                missing |= 1 << i;
                            }
                            let mut before = [0; 2];
                            for (k, v) in before.iter_mut().enumerate().take(parts) {
                                *v = allocation.load(offset + 8 * k as u64, part);
                            }
                            for (k, v) in step(i, before).into_iter().enumerate().take(parts) {
                                allocation.store(offset + 8 * k as u64, part, v);
                            }
                            old[i as usize] = before;
                        }
                    }
                });
                if check && missing != 0 {
                    let lane = missing.trailing_zeros();
                    let address = addresses[lane as usize];
                    this.report(Check::Uninitialised, pc, what.warp, lane, || {
                        let about = this.l.memory.describe(address);
                        format!("updates {bytes} B of global memory that nothing has written, {about}")
                    });
                }
            }
        });
        if !result.is_empty() {
            self.asked(warp, pc, mask, &old.map(|parts| parts[0]));
        }
        for (k, &d) in result.iter().enumerate() {
            if wide {
                write64(banks, d, mask, |i| old[i as usize][k]);
            } else {
                write32(banks, d, mask, |i| (old[i as usize][0] & cut) as u32);
            }
        }
    }
}
