//! Order of accesses to global memory: what each one tells the check of races, and what a race is called.

use super::access::What;
use super::bulk::Written;
use super::engine::Engine;
use super::rows::lanes_of;
use super::transfer::End;
use crate::check::Kind as Check;
use crate::check::global::{Access, Clash, Missing};
use crate::code::Strength;
use crate::memory::Allocation;

impl Engine<'_> {
    /// Records an access with the check of races in global memory.
    pub(super) fn global_races(
        &mut self,
        what: What,
        allocation: &Allocation,
        addresses: &[u64; 32],
        mask: u32,
    ) {
        let Some(shadow) = allocation.shadow() else { return };
        let strong = what.strength.is_wide();
        if strong {
            let mut releases = self.l.releases.lock().unwrap_or_else(|e| e.into_inner());
            let reads = (what.atomic || !what.write, what.strength == Strength::Acquire);
            for i in lanes_of(mask) {
                self.clock.strong(&mut releases, addresses[i as usize], reads, what.write);
            }
        }
        let access = Access { warp: what.warp, bytes: what.total() as u32, write: what.write, strong };
        let (quiet, loud) = (mask & self.quiet, mask & !self.quiet);
        let base = allocation.base;
        let rewritten = self.clock.rewrite(shadow, base, addresses, quiet, access);
        let found = if loud == 0 { None } else { self.clock.access(shadow, base, addresses, loud, access) };
        if let Some(clash) = found.or(rewritten) {
            let address = addresses[clash.lane as usize];
            let did = format!("{} {} B of global memory", what.verb(), what.total());
            self.report_clash(clash, (what.pc, what.warp), address, did);
        }
    }

    /// Records a copy between global and shared memory that `lane` of `warp` issues.
    pub(super) fn order_global_copy(
        &mut self,
        (pc, warp, lane): (u32, u32, u32),
        end: &End,
        bytes: u32,
        write: bool,
        reduces: bool,
    ) {
        if !self.clock.is_on() {
            return;
        }
        let access = Access { warp, bytes: 16, write, strong: reduces };
        let mut found = None;
        self.each_global_range(end, bytes, |this, a, range| {
            if let Some(shadow) = a.shadow() {
                let clash = this.clock.copy(shadow, range, lane, access);
                found = found.or(clash.map(|(offset, clash)| (a.base + offset, clash)));
            }
        });
        if let Some((address, clash)) = found {
            let did = if write { "writes" } else { "reads" };
            self.report_clash(clash, (pc, warp), address, format!("{did} global memory in bulk"));
        }
    }

    /// A copy to global memory of the running block has been waited for.
    pub(super) fn global_copy_done(&mut self, warp: u32, written: &Written) {
        self.each_global_range(&written.to, written.bytes, |this, a, range| {
            if let Some(shadow) = a.shadow() {
                this.clock.copied(shadow, range, warp);
            }
        });
    }

    /// Calls `f` with the allocation, and offset and length in it, of each run of bytes at the global end of a copy.
    fn each_global_range(
        &mut self,
        end: &End,
        bytes: u32,
        mut f: impl FnMut(&mut Self, &Allocation, (u64, u64)),
    ) {
        let memory = self.l.memory;
        match end {
            End::Global(address) => {
                if let Some(a) = memory.find(*address) {
                    f(self, a, (address - a.base, bytes as u64));
                }
            }
            End::Tensor(map, at) => {
                let Some(a) = super::tensor_copy::extent(map, at).and_then(|(low, _)| memory.find(low))
                else {
                    return;
                };
                super::tensor_copy::runs(map, at, |address, length| f(self, a, (address - a.base, length)));
            }
            End::Shared(_) | End::Bytes(_) => {}
        }
    }

    fn report_clash(&self, clash: Clash, (pc, warp): (u32, u32), address: u64, did: String) {
        let checks = self.l.options.checks;
        let (kind, wanted) = match clash.missing {
            Missing::Order | Missing::Fence => (Check::GlobalRace, true),
            Missing::Wait => (Check::MissingAsyncWait, checks.async_copies),
            Missing::ProxyFence => (Check::MissingProxyFence, checks.async_copies),
        };
        if !wanted {
            return;
        }
        self.report(kind, pc, warp, clash.lane, || {
            let whole = |n: u64| {
                let [gx, gy, _] = self.l.grid.map(|d| d as u64);
                format!("({},{},{})", n % gx, n / gx % gy, n / gx / gy)
            };
            let block = match clash.block {
                Some(n) if n == self.clock.block() => "of this block".to_string(),
                _ if self.l.cluster != [1; 3] => "of another cluster".to_string(),
                Some(n) => format!("of block {}", whole(n)),
                None => "of other blocks".to_string(),
            };
            let who = match (clash.warp, clash.other) {
                (Some(warp), Some(lane)) if clash.block.is_some() => {
                    let [x, y, z] = self.thread_of(warp, lane);
                    format!("thread ({x},{y},{z})")
                }
                (Some(warp), None) if clash.block.is_some() => format!("warp {warp}"),
                _ => "threads".to_string(),
            };
            let about = self.l.memory.describe(address);
            let wrote = if clash.wrote { "wrote" } else { "read" };
            match clash.missing {
                Missing::Order => format!("{did}, {about}, which {who} {block} {wrote} with nothing to order them"),
                Missing::Fence => format!(
                    "{did}, {about}, which {who} {block} {wrote}: a relaxed load has seen that it is done, but no fence follows (fence.acq_rel.gpu, or make the load an acquire)"
                ),
                Missing::Wait => format!(
                    "{did}, {about}, which a bulk copy of {who} writes that has not been waited for (cp.async.bulk.wait_group, not .read)"
                ),
                Missing::ProxyFence => {
                    format!("{did}, {about}, which {who} {block} wrote with no fence.proxy.async between")
                }
            }
        });
    }
}
