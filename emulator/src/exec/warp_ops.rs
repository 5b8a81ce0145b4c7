//! Instructions that lanes of a warp execute together: shuffles, votes, matches, reductions, `bar.warp.sync`
//! (PTX ISA 9.7.9.6 and 9.7.13).
//!
//! Lanes wait at the instruction until every lane of their member mask that has not exited is there with the same
//! mask. Shuffles and votes do not order memory; `bar.warp.sync` does.

use super::engine::{Engine, RaceCheck};
use super::lanes::Banks;
use super::rows::{lanes_of, read_pred, read32, read64, write_pred, write32};
use super::state::Warp;
use crate::check::Kind as Check;
use crate::code::{Kind, Redux, Shuffle, Vote};

impl Engine<'_> {
    /// Runs a warp-wide instruction for those lanes of `mask` that can; returns them. The others must wait.
    pub(super) fn warp_op(&mut self, warp: &mut Warp, banks: &Banks, pc: u32, mask: u32) -> u32 {
        let inst = self.l.code.insts[pc as usize];
        let pool = &self.l.code.pool[inst.pool as usize..];
        let member_at = match inst.kind {
            Kind::Mma(_) | Kind::QuadMma(_) | Kind::Ldmatrix { .. } | Kind::Movmatrix => {
                if mask != warp.alive {
                    return 0;
                }
                if mask != u32::MAX && self.l.options.checks.barriers {
                    self.report(Check::WarpSyncMisuse, pc, warp.index, mask.trailing_zeros(), || {
                        format!("executes a matrix instruction with lanes {mask:08x} only; it needs all 32")
                    });
                }
                match inst.kind {
                    Kind::Mma(mma) => self.mma(banks, mma, pool, mask),
                    Kind::QuadMma(mma) => self.mma_quads(banks, mma, pool, mask),
                    Kind::Ldmatrix { count, transpose } => {
                        self.ldmatrix(warp.index, banks, pool, count as usize, transpose, pc, mask);
                    }
                    _ => self.movmatrix(banks, pool, mask),
                }
                return mask;
            }
            Kind::Shuffle(_) => 2,
            Kind::Match { all, .. } => 1 + all as usize,
            Kind::BarWarp => 0,
            Kind::Elect => 2,
            _ => 1,
        };
        let members = read32(banks, pool[member_at]);
        let (mut left, mut done) = (mask, 0);
        while left != 0 {
            let lane = left.trailing_zeros();
            let named = members[lane as usize];
            let same: u32 = lanes_of(left).map(|i| ((members[i as usize] == named) as u32) << i).sum();
            left &= !same;
            let outside = same & !named;
            if outside != 0 && self.l.options.checks.barriers {
                self.report(Check::WarpSyncMisuse, pc, warp.index, outside.trailing_zeros(), || {
                    format!("names a member mask {named:08x} that leaves itself out")
                });
            }
            if named & warp.alive & !same != 0 {
                continue; // some are not here yet
            }
            done |= same;
            match inst.kind {
                Kind::Shuffle(mode) => self.shuffle(warp.index, banks, pool, mode, pc, same),
                Kind::Vote(vote) => {
                    let p = read_pred(banks, pool[2]) & same;
                    let all = |b: bool| if b { u32::MAX } else { 0 };
                    match vote {
                        Vote::Ballot => write32(banks, pool[0], same, |_| p),
                        Vote::All => write_pred(banks, pool[0], same, all(p == same)),
                        Vote::Any => write_pred(banks, pool[0], same, all(p != 0)),
                        Vote::Uni => write_pred(banks, pool[0], same, all(p == 0 || p == same)),
                    }
                }
                Kind::Match { all, wide } => {
                    let slot = pool[member_at + 1];
                    let v = if wide { read64(banks, slot) } else { read32(banks, slot).map(|v| v as u64) };
                    let equal = |i: u32| -> u32 {
                        lanes_of(same).map(|j| ((v[j as usize] == v[i as usize]) as u32) << j).sum()
                    };
                    if all {
                        let found = if equal(lane) == same { same } else { 0 };
                        write32(banks, pool[0], same, |_| found);
                        write_pred(banks, pool[1], same, if found != 0 { u32::MAX } else { 0 });
                    } else {
                        write32(banks, pool[0], same, equal);
                    }
                }
                Kind::Redux(op) => {
                    let v = read32(banks, pool[2]);
                    let result = lanes_of(same).map(|i| v[i as usize]).reduce(|a, b| match op {
                        Redux::Add => a.wrapping_add(b),
                        Redux::MinU => a.min(b),
                        Redux::MaxU => a.max(b),
                        Redux::MinS => (a as i32).min(b as i32) as u32,
                        Redux::MaxS => (a as i32).max(b as i32) as u32,
                        Redux::And => a & b,
                        Redux::Or => a | b,
                        Redux::Xor => a ^ b,
                    });
                    write32(banks, pool[0], same, |_| result.unwrap_or(0));
                }
                Kind::Elect => {
                    write32(banks, pool[0], same, |_| lane);
                    write_pred(banks, pool[1], same, 1 << lane);
                }
                _ => {
                    self.clock.sync_warp(warp.index as usize);
                    match self.races {
                        RaceCheck::Off => {}
                        RaceCheck::Epochs => self.b.epochs.sync_warp(warp.index as usize),
                        RaceCheck::Clocks => self.b.races.sync_lanes(warp.index as usize, same, self.step),
                        RaceCheck::Order => {
                            let me = self.warp_agent(warp.index);
                            self.order.sync_lanes(me, same, self.step);
                        }
                    }
                }
            }
        }
        done
    }

    fn shuffle(&mut self, warp: u32, banks: &Banks, pool: &[u16], mode: Shuffle, pc: u32, active: u32) {
        let (a, b, c) = (read32(banks, pool[3]), read32(banks, pool[4]), read32(banks, pool[5]));
        let (mut values, mut valid, mut absent) = ([0; 32], 0, 0u32);
        for lane in lanes_of(active) {
            let i = lane as usize;
            let (offset, clamp, segment) = (b[i] & 0x1f, c[i] & 0x1f, c[i] >> 8 & 0x1f);
            let last = (lane & segment) | (clamp & !segment);
            let (from, inside) = match mode {
                Shuffle::Up => (lane.wrapping_sub(offset), lane as i32 - offset as i32 >= last as i32),
                Shuffle::Down => (lane + offset, lane + offset <= last),
                Shuffle::Bfly => (lane ^ offset, lane ^ offset <= last),
                Shuffle::Idx => {
                    let from = (lane & segment) | (offset & !segment);
                    (from, from <= last)
                }
            };
            let from = if inside { from & 31 } else { lane };
            valid |= (inside as u32) << lane;
            absent |= ((active >> from & 1 == 0) as u32) << lane;
            values[i] = a[from as usize];
        }
        if absent != 0 && self.l.options.checks.barriers {
            self.report(Check::WarpSyncMisuse, pc, warp, absent.trailing_zeros(), || {
                "shuffles a value from a lane that does not take part".to_string()
            });
        }
        write32(banks, pool[0], active, |i| values[i as usize]);
        write_pred(banks, pool[1], active, valid);
    }
}
