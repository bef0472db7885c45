//! `keygate man`: one page with a section for each command.

use std::io;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::cli::command_error::CommandError;
use crate::cli::output::print;

pub(super) fn run() -> Result<ExitCode, CommandError> {
    let page = page().map_err(|error| CommandError::System("the manual page".to_owned(), error))?;
    print(page)?;
    Ok(ExitCode::SUCCESS)
}

fn page() -> io::Result<String> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    let mut text = String::from_utf8_lossy(&page).into_owned();
    for subcommand in command.get_subcommands() {
        add(subcommand, &mut text)?;
    }
    Ok(text)
}

fn add(command: &Command, text: &mut String) -> io::Result<()> {
    let inner: Vec<&Command> = command.get_subcommands().collect();
    for subcommand in &inner {
        add(subcommand, text)?;
    }
    // A command that only has inner ones has nothing of its own to say.
    if command.is_subcommand_required_set() {
        return Ok(());
    }
    let man = Man::new(command.clone());
    let mut section = Vec::new();
    man.render_synopsis_section(&mut section)?;
    man.render_description_section(&mut section)?;
    man.render_options_section(&mut section)?;
    let section = String::from_utf8_lossy(&section);
    let name = command.get_bin_name().unwrap_or(command.get_name());
    text.push_str(&format!(".SH \"{}\"\n", name.to_uppercase()));
    // Sections of a separate page become subsections here.
    text.push_str(&section.replace(".SH ", ".SS "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_describes_every_command_once() {
        let page = page().unwrap();
        for heading in [
            ".SH \"KEYGATE SERVE\"",
            ".SH \"KEYGATE KEYS CREATE\"",
            ".SH \"KEYGATE EXPLAIN\"",
            ".SH \"KEYGATE USAGE\"",
            ".SH \"KEYGATE USAGE RECORDS\"",
        ] {
            assert_eq!(page.matches(heading).count(), 1, "{heading}");
        }
    }
}
