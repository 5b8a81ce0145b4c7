//! `handloom ops`: the table of ops, from their cards.

use clap::Args;
use handloom_engine::cards;
use serde_json::json;

use super::CommandResult;
use super::output::say;

/// Arguments of `handloom ops`.
#[derive(Args, Debug)]
pub struct OpsArgs {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: OpsArgs) -> CommandResult {
    for card in cards::ALL {
        if args.json {
            let cases: Vec<_> =
                card.cases.iter().map(|case| json!({ "sizes": case.sizes, "why": case.why })).collect();
            let report = json!({
                "op": card.op, "name": card.name, "formula": card.formula, "source": card.source,
                "size_names": card.size_names, "cases": cases,
            });
            say(format_args!("{report}"));
        } else {
            say(format_args!("{:<30} {}", card.name, card.formula));
            say(format_args!(
                "{:<30} sizes {}; {} test cases; {}",
                "",
                card.size_names,
                card.cases.len(),
                card.source
            ));
        }
    }
    Ok(())
}
