//! AdamW over all parameters in one launch.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid;
use crate::optimizer::{Parameter, Settings, State, Table};
use crate::slice::{Arg, Slice};

/// Updates values, masters and moments of the parameters, with the numbers that `loss_scaler::update` left in `state`; nothing at all
/// when that step was not applied. The parameters are passed so that their memory is borrowed: `table` must describe them.
///
/// # Errors
/// [`Error::Argument`] when an array is too short or of another dtype.
pub fn step(
    gpu: &'static Gpu,
    table: &mut Table,
    parameters: &mut [Parameter],
    state: Slice,
    settings: Slice,
) -> Result<()> {
    const OP: &str = "adamw_step";
    state.expect(OP, "state", Elem::I32, State::WORDS)?;
    settings.expect(OP, "settings", Elem::I32, 2 * Settings::DOUBLES)?;
    if !state.is_aligned(8) || !settings.is_aligned(8) {
        return Err(Error::argument(OP, "state and settings must start at a multiple of 8 bytes".into()));
    }
    table.refresh(gpu, parameters)?;
    if table.chunks() == 0 {
        return Ok(());
    }
    let args = [Arg::from(table.slice(OP)?), state.into(), settings.into()];
    gpu.launch(OP, [grid::blocks(OP, "chunks", table.chunks())?, 1, 1], grid::BLOCK, 0, &args)
}
