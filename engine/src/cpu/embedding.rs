//! Row gather and its deterministic scatter-add on the CPU.

use rayon::prelude::*;

use super::parallel;
use crate::dtype::Float;

/// out (N, C): row n is weight[ids[n]]. Ids have been checked.
pub fn forward<E: Float>(out: &mut [E], ids: &[i32], weight: &[E], cols: usize) {
    parallel::rows_mut(out, cols, |first, out| {
        for (out, &id) in out.chunks_exact_mut(cols).zip(&ids[first..]) {
            out.copy_from_slice(&weight[id as usize * cols..][..cols]);
        }
    });
}

/// dweight (V, C) += the rows of dout (N, C) at their ids. Rows of one id are added in their order: the tokens are
/// sorted by id first (stably), and each run of equal ids belongs to one task.
pub fn backward<G: Float, E: Float>(dweight: &mut [G], dout: &[E], ids: &[i32], cols: usize) {
    if cols == 0 {
        return;
    }
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&n| ids[n as usize]);
    let mut rows: Vec<Option<&mut [G]>> = dweight.chunks_exact_mut(cols).map(Some).collect();
    let runs: Vec<(&mut [G], &[u32])> = order
        .chunk_by(|&a, &b| ids[a as usize] == ids[b as usize])
        .filter_map(|run| Some((rows[ids[run[0] as usize] as usize].take()?, run)))
        .collect();
    runs.into_par_iter().with_min_len(16).for_each_init(
        || vec![0.0f32; cols],
        |sums, (row, run)| {
            sums.iter_mut().zip(row.iter()).for_each(|(sum, g)| *sum = g.to_f32());
            for &n in run {
                let dout = &dout[n as usize * cols..][..cols];
                sums.iter_mut().zip(dout).for_each(|(sum, d)| *sum += d.to_f32());
            }
            row.iter_mut().zip(sums.iter()).for_each(|(g, sum)| *g = G::from_f32(*sum));
        },
    );
}
