//! Output of commands. Nothing in it can control the terminal.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::cli::command_error::CommandError;
use crate::policy::text::is_harmless;

/// The longest cell of a table on a terminal, in characters.
const MAX_CELL: usize = 32;

/// Writes to standard output.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_ref())
        .and_then(|()| output.flush())
        .map_err(CommandError::Output)
}

/// Writes one line to standard output.
pub(super) fn print_line(text: impl AsRef<[u8]>) -> Result<(), CommandError> {
    print([text.as_ref(), b"\n"].concat())
}

/// Prints clap's message: help and version on standard output, errors in the arguments on standard error.
pub(super) fn usage(message: &clap::Error) -> ExitCode {
    // The reader may have closed the pipe.
    let _ = message.print();
    u8::try_from(message.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Escapes every character that could control a terminal.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmless(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_unicode());
        }
    }
    escaped
}

/// The columns of the terminal. None: the output goes elsewhere.
pub(super) fn terminal_width() -> Option<usize> {
    let output = io::stdout();
    let size = output
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(output));
    // A terminal that does not know its size says 0.
    let columns = usize::from(size?.ok()?.ws_col);
    (columns > 0).then_some(columns)
}

/// A table with headings. Long cells are cut, but only on a terminal.
pub(super) fn table<const N: usize>(headings: [&str; N], mut rows: Vec<[String; N]>) -> String {
    if io::stdout().is_terminal() {
        for cell in rows.iter_mut().flatten() {
            if let Some((at, _)) = cell.char_indices().nth(MAX_CELL) {
                cell.truncate(at);
                cell.push('…');
            }
        }
    }
    rows.insert(0, headings.map(str::to_owned));
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let line_begins = text.len();
        for (width, cell) in widths.iter().zip(row) {
            text.push_str(cell);
            let padding = width + 2 - cell.chars().count();
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text.truncate(line_begins + text[line_begins..].trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_control_a_terminal_are_escaped() {
        assert_eq!(escaped("wéb site"), "wéb site");
        assert_eq!(
            escaped("a\u{1b}[31m\u{202e}\n"),
            "a\\u{1b}[31m\\u{202e}\\u{a}"
        );
    }

    #[test]
    fn the_columns_of_a_table_are_aligned() {
        let rows = vec![
            ["é".to_owned(), "x".to_owned()],
            ["longer".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["ID", "NAME"], rows),
            "ID      NAME\né       x\nlonger\n"
        );
    }
}
