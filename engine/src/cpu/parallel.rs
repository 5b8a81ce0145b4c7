//! Splitting work over rayon's threads without letting their number change a result.

use rayon::prelude::*;

/// Elements a task should have at least, so that its work outweighs starting it (about 1 us).
const TASK_ELEMENTS: usize = 16 * 1024;

/// Rows per task for rows of `cols` elements.
fn rows_per_task(cols: usize) -> usize {
    TASK_ELEMENTS.div_ceil(cols.max(1)).max(1)
}

/// Calls `f(first_row, rows)` on runs of whole rows of `out` (rows of `cols` elements), in parallel.
pub fn rows_mut<T: Send>(out: &mut [T], cols: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows = rows_per_task(cols);
    if out.len() <= rows * cols {
        return f(0, out);
    }
    out.par_chunks_mut(rows * cols).enumerate().for_each(|(i, chunk)| f(i * rows, chunk));
}

/// As [`rows_mut`] over two outputs with the same number of rows.
pub fn rows_mut2<T: Send, U: Send>(
    a: &mut [T],
    a_cols: usize,
    b: &mut [U],
    b_cols: usize,
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if a.is_empty() {
        return;
    }
    let rows = rows_per_task(a_cols);
    let (a_chunks, b_chunks) = (a.par_chunks_mut(rows * a_cols), b.par_chunks_mut(rows * b_cols));
    a_chunks.zip(b_chunks).enumerate().for_each(|(i, (a, b))| f(i * rows, a, b));
}

/// Sums per-row contributions into `cols` columns: `f(row, sums)` adds row `row`. The rows are cut into parts whose
/// number depends on the sizes only, each part is summed in order, and the parts are added in order.
pub fn sum_rows(rows: usize, cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let parts = rows.div_ceil(rows_per_task(cols)).clamp(1, 32);
    let per_part = rows.div_ceil(parts).max(1);
    let partial: Vec<Vec<f32>> = (0..parts)
        .into_par_iter()
        .map(|part| {
            let mut sums = vec![0.0; cols];
            for row in part * per_part..((part + 1) * per_part).min(rows) {
                f(row, &mut sums);
            }
            sums
        })
        .collect();
    let mut partial = partial.into_iter();
    let mut total = partial.next().unwrap_or_else(|| vec![0.0; cols]);
    for sums in partial {
        for (total, sum) in total.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    total
}
