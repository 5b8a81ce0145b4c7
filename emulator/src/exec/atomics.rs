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
use crate::ptx::ast::{Space, Ty};

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
        AtomicOp::Min => int(Int::Min),
        AtomicOp::Max => int(Int::Max),
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
        let (result, rest) = if op.has_result { (Some(pool[0]), &pool[1..]) } else { (None, pool) };
        let addresses = Self::addresses(banks, op.address, rest[0], op.offset);
        let wide = op.ty.bytes() == 8;
        let row = |slot: u16| if wide { read64(banks, slot) } else { read32(banks, slot).map(|v| v as u64) };
        let b = row(rest[1]);
        let c = if op.op == AtomicOp::Cas { row(rest[2]) } else { [0; 32] };
        let what = What {
            pc,
            warp: warp.index,
            bytes: op.ty.bytes(),
            count: 1,
            write: true,
            strong: true,
            atomic: true,
        };
        if self.l.options.counters {
            let count = &mut self.counts[pc as usize];
            count.bytes += what.bytes as u64 * mask.count_ones() as u64;
            count.transfers += serial_updates(&addresses, mask);
            count.ideal += 1;
        }
        let mut old = [u64::MAX; 32];
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
        let cut = u64::MAX >> (64 - 8 * bytes);
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
                        let before = super::rows::load_bytes(cell);
                        let after = update(&op, before, b[i as usize] & cut, c[i as usize] & cut) & cut;
                        cell.copy_from_slice(&after.to_le_bytes()[..size]);
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
                            if !allocation.is_written(offset, bytes) && op.op != AtomicOp::Exch {
                                missing |= 1 << i;
                            }
                            let before = allocation.load(offset, bytes);
                            let after = update(&op, before, b[i as usize] & cut, c[i as usize] & cut);
                            allocation.store(offset, bytes, after);
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
        if let Some(d) = result {
            if op.ty == Ty::B64 || wide {
                write64(banks, d, mask, |i| old[i as usize]);
            } else {
                write32(banks, d, mask, |i| (old[i as usize] & cut) as u32);
            }
        }
    }
}
