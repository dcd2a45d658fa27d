"""gpunet's presets on folders of tables, beside other libraries: fits, figures, what is printed."""
