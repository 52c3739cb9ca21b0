"""Attribution: heat maps of the pixels that support a class, and measures of their faithfulness."""
