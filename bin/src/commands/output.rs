//! Standard output of the commands.

use std::error::Error;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Lets `print` write to standard output. A reader that has gone (`handloom ... | head`) ends the command quietly
/// and is no failure.
pub fn to_stdout(
    print: impl FnOnce(&mut dyn Write) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = print(&mut out).and_then(|()| Ok(out.flush()?));
    match result {
        Err(error) => match error.downcast::<io::Error>() {
            Ok(error) if error.kind() == ErrorKind::BrokenPipe => {
                // What is still in the buffer has no reader; dropping the writer would try once more.
                drop(out.into_parts());
                Ok(())
            }
            Ok(error) => Err(format!("cannot write to standard output: {error}").into()),
            Err(other) => Err(other),
        },
        Ok(()) => Ok(()),
    }
}

/// Prints a line. A reader that has gone is no reason to end a training run.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
